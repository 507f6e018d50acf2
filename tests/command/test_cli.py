"""The door: mistakes of the user end in one line and exit code 2, and nothing is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sparc_pretrain import run_folder
from sparc_pretrain.command import cli
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.run_folder import RunFolder
from tests.commands import ROOT, call, command, refusal, through_the_door, tool
from tests.transfer.backbone.test_backbone import make_run
from transfer import mm

QUICKSTART = ROOT / "configs" / "quickstart"
PRETRAIN, DETECT = str(QUICKSTART / "sparc.py"), str(QUICKSTART / "det.py")
SEGMENT, CAPTION = str(QUICKSTART / "seg.py"), str(QUICKSTART / "caption.py")

# ------------------------------------------------------------------ guard


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from any data that a checkout may hold: what is wrongly let in must not train."""
    monkeypatch.chdir(tmp_path)


def test_one_of_several_processes_leaves_at_once_but_flushes_and_does_what_was_promised_at_exit():
    script = """
import atexit, sys
from sparc_pretrain import distributed
from sparc_pretrain.command import cli
distributed.world_size = lambda: 2
class Last:
    def __del__(self):
        print("the interpreter ended")
sys.keep = Last()
atexit.register(print, "promised")
print("before", end=" ")
cli.guard(lambda: sys.exit(75))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (75, "before promised\n")


def fail_with(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "error: a b"),
        (KeyError("no such key"), "error: no such key"),
        (FileNotFoundError(2, "No such file", "x.json"), "error: [Errno 2] No such file: 'x.json'"),
        (ImportError("mmseg is not installed"), "error: mmseg is not installed"),
        (TypeError("f() got an unexpected keyword argument 'x'"), "error: f() got an unexpected"),
        (ValueError(""), "error: ValueError"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(error: Exception, line: str) -> None:
    assert refusal(through_the_door(fail_with(error))).startswith(line)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(TypeError, match="not subscriptable"):
        through_the_door(fail_with(TypeError("'int' object is not subscriptable")))
    with pytest.raises(ZeroDivisionError):
        through_the_door(fail_with(ZeroDivisionError()))


def test_a_developer_may_ask_for_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARC_TRACEBACK", "1")
    with pytest.raises(ValueError, match="told"):
        through_the_door(fail_with(ValueError("told")))


def test_other_endings_have_their_codes() -> None:
    assert through_the_door(lambda: None) == (0, "")
    assert through_the_door(lambda: 3) == (3, "")
    assert through_the_door(fail_with(KeyboardInterrupt()))[0] == 130
    assert through_the_door(fail_with(SystemExit(75)))[0] == 75


def test_the_nearest_name_is_offered_only_when_there_is_one() -> None:
    assert cli.nearest("optim_wraper", cli.KNOWN_KEYS) == " (did you mean 'optim_wrapper'?)"
    assert cli.nearest("zebra", cli.KNOWN_KEYS) == ""


def test_arguments_are_followed_up_the_classes_and_functions_are_known() -> None:
    mm.register("mmdet")
    head = dict(type="FCOSHead", num_classes=3, in_channels=8, conv_bias=True)
    cfg = Config(dict(default_scope="mmdet", model=dict(type="FCOS", bbox_head=head)))
    cfg.model.test_cfg = dict(nms=dict(type="nms", iou_threshold=0.5))
    cli.check_config(cfg)
    cfg.optim_wrapper = dict(optimizer=dict(type="torch.optim.AdamW", lr=1.0))
    cli.check_config(cfg)
    cfg.custom_hooks = [dict(type="sparc.CheckpointHook", interval=1, minutes=3, save_best="auto")]
    cli.check_config(cfg)
    cfg.custom_hooks = [dict(type="sparc.RecordHook", pictures=1, priority="LOW")]
    cli.check_config(cfg)


# ------------------------------------------------------------------ pre-training


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def untouched(work: Path) -> bool:
    """Nothing was trained: no checkpoint, no run folder."""
    return not list(work.rglob("*.pth")) and not (work / "run").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("optim_wraper.max_norm=2", "'optim_wraper' is unknown (did you mean 'optim_wrapper'?)"),
        ("shcedule.steps=2", "'shcedule' is unknown (did you mean 'schedule'?)"),
        ("schedule.step=2", "schedule.step is unknown (did you mean 'steps'?)"),
        ("model.objective.type=Sprac", "'Sprac' is not registered (did you mean 'Sparc'?)"),
        (
            "model.objective.local_wieght=2",
            "no argument 'local_wieght' (did you mean 'local_weight",
        ),
        ("model.acumulate=2", "no argument 'acumulate' (did you mean 'accumulate'?)"),
        ("data.sources=nowhere/x-*.tar", "tools/data.py scenes"),
        ("optim_wrapper.optimizer.type=AdanW", "'AdanW' is not registered (did you mean 'AdamW'?)"),
    ],
)
def test_pretraining_refuses_what_it_cannot_use(work: Path, option: str, words: str) -> None:
    line = refusal(call("pretrain", PRETRAIN, "--work-dir", work, "--cfg-options", option))
    assert words in line and untouched(work)


def test_a_misspelt_argument_of_the_checkpoints_does_not_wait_for_the_first_save() -> None:
    with pytest.raises(ValueError, match=r"no argument 'intervall' \(did you mean 'interval'\?\)"):
        CheckpointHook(intervall=2)


def test_pretraining_refuses_files_that_are_not_there_or_not_its_own(
    work: Path, tmp_path: Path
) -> None:
    assert "no config file gone.py" in refusal(call("pretrain", "gone.py", "--work-dir", work))
    assert "the config has no `" in refusal(call("pretrain", DETECT, "--work-dir", work))
    (tmp_path / "broken.py").write_text("\nmodel = dict(")
    assert "broken.py or a base of it, line 2: '(' was never closed" in refusal(
        call("pretrain", tmp_path / "broken.py", "--work-dir", work)
    )
    assert untouched(work)


@pytest.mark.parametrize(("which", "config"), [("pretrain", PRETRAIN), ("train", SEGMENT)])
def test_a_work_dir_that_cannot_be_written_to_is_named(
    tmp_path: Path, which: str, config: str
) -> None:
    (tmp_path / "file").write_text("")
    line = refusal(call(which, config, "--work-dir", tmp_path / "file" / "work"))
    assert "cannot write to the work dir" in line and "file/work" in line


def test_the_command_itself_ends_a_mistake_in_one_line(work: Path) -> None:
    done = command("pretrain", PRETRAIN, "--work-dir", work, "--cfg-options", "modle.width=3")
    line = refusal((done.returncode, done.stderr))
    assert "did you mean 'model'" in line and untouched(work)


# ------------------------------------------------------------------ transfer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-only run."""
    return make_run(tmp_path_factory.mktemp("sparc") / "run")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert tool("data").main(
        ["scenes", "--out", str(folder), "--train", "6", "--val", "2", "--size", "64"]
    ) in (None, 0)
    return folder


def detection(scenes: Path, *more: str) -> list[str]:
    """Overrides that put quickstart's detector on `scenes`."""
    options = [f"{split}_dataloader.dataset.data_root={scenes}/" for split in ("train", "val")]
    truth = f"{scenes}/annotations/instances_val.json"
    options += [f"test_dataloader.dataset.data_root={scenes}/", f"val_evaluator.ann_file={truth}"]
    return ["--cfg-options", *options, f"test_evaluator.ann_file={truth}", *more]


@pytest.mark.parametrize(
    ("config", "option", "words"),
    [
        (DETECT, "train_dataloder.batch_size=2", "(did you mean 'train_dataloader'?)"),
        (DETECT, "model.neck.type=sparc.SimplePyramd", "(did you mean 'sparc.SimplePyramid'?)"),
        (
            DETECT,
            "model.backbone.frozn=1",
            "SparcViT takes no argument 'frozn' (did you mean 'froz",
        ),
        (DETECT, "model.type=FCSO", "'FCSO' is not registered (did you mean 'FCOS'?)"),
        (SEGMENT, "train_dataloader.dataset.data_root=nowhere", "nowhere/images/training does not"),
        (
            CAPTION,
            "train_dataloader.dataset.data_root=nowhere",
            "captions_train.json does not exist",
        ),
    ],
)
def test_fine_tuning_refuses_what_it_cannot_use(
    work: Path, config: str, option: str, words: str
) -> None:
    line = refusal(call("train", config, "--work-dir", work, "--cfg-options", option))
    assert words in line and untouched(work)


def test_fine_tuning_refuses_backbones_that_are_none(work: Path, tmp_path: Path, run: Path) -> None:
    line = refusal(call("train", DETECT, "--work-dir", work, "--backbone", tmp_path / "none"))
    assert "no run folder at" in line
    line = refusal(call("train", DETECT, "--work-dir", work, "--backbone", ROOT / "configs"))
    assert "is not a run folder: manifest.json is missing" in line
    stock = "mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py"
    line = refusal(call("train", stock, "--work-dir", work, "--backbone", run))
    assert "BiSeNetV1" in line
    assert "needs --backbone" in refusal(call("train", DETECT, "--from-scratch"))


def test_a_head_for_other_classes_is_refused_before_the_first_step(
    work: Path, scenes: Path, run: Path
) -> None:
    options = detection(scenes, "model.bbox_head.num_classes=35")
    line = refusal(call("train", DETECT, "--work-dir", work, "--backbone", run, *options))
    assert "bbox_head (FCOSHead) has num_classes=35, the data set 12 categories" in line
    assert untouched(work)


def test_class_names_that_the_file_does_not_have_are_refused(work: Path, scenes: Path) -> None:
    names = ",".join(f"'thing {i}'" for i in range(36))
    options = detection(scenes, f"train_dataloader.dataset.metainfo.classes=({names})")
    line = refusal(call("train", DETECT, "--work-dir", work, *options))
    assert "has no category ['thing0'," in line and "of the 36 in metainfo.classes" in line
    assert untouched(work)


@pytest.mark.parametrize("filtered", [False, True])
def test_an_empty_data_set_is_refused(
    work: Path, scenes: Path, tmp_path: Path, filtered: bool
) -> None:
    truth = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    truth["annotations"] = []
    if not filtered:
        truth["images"] = []
    (tmp_path / "empty.json").write_text(json.dumps(truth))
    more = [f"train_dataloader.dataset.ann_file={tmp_path}/empty.json"]
    if filtered:
        more.append("train_dataloader.dataset.filter_cfg.filter_empty_gt=True")
    line = refusal(call("train", DETECT, "--work-dir", work, *detection(scenes, *more)))
    assert "is empty" in line and "empty.json" in line and untouched(work)


def test_a_test_without_its_checkpoint_is_refused(work: Path) -> None:
    assert "no checkpoint gone.pth" in refusal(call("test", DETECT, "gone.pth"))


def test_zero_shot_and_verification_refuse_what_is_no_run(
    tmp_path: Path, scenes: Path, run: Path
) -> None:
    data = ["--images", scenes / "images" / "val", "--captions", "gone.json"]
    assert "no run folder at" in refusal(call("zeroshot", tmp_path / "none", "retrieval", *data))
    assert "gone.json" in refusal(call("zeroshot", run, "retrieval", *data))
    assert "is not a run folder" in refusal(call("verify", tmp_path))
    (tmp_path / "iter_5.pth").write_bytes(b"half")
    assert "iter_5.pth has no readable manifest" in refusal(call("verify", tmp_path / "iter_5.pth"))
    assert isinstance(run_folder.verify(run), RunFolder)


def test_an_error_in_a_loaders_worker_is_told_by_its_own_line() -> None:
    class Broken(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> None:
            raise ValueError("photo.png: png truncated")

    with pytest.raises(ValueError, match="Traceback") as caught:
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert cli.one_line(caught.value) == "photo.png: png truncated"
