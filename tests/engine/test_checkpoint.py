"""A kill, a full disk or a damaged file never costs more than the newest checkpoint."""

import json
import os
import pickle
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import checkpoint, mmengine_patches
from sparc_pretrain.engine import manifest as manifests
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook


def state(iteration: int, size: int = 1000) -> dict:
    generator = torch.Generator().manual_seed(iteration)
    return {"meta": {"iter": iteration}, "w": torch.randn(size, generator=generator)}


def flip_a_bit(path: Path, offset: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * offset)] ^= 1
    path.write_bytes(data)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def partials(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{checkpoint.PARTIAL}"))


def test_what_was_saved_is_verified_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "HASH_BLOCK", 1000)  # several blocks
    path = tmp_path / "iter_3.pth"
    checkpoint.save(state(3), path)
    checkpoint.verify(path)
    assert torch.equal(checkpoint.load(path)["w"], state(3)["w"])
    manifest = json.loads(Path(f"{path}.manifest.json").read_text())
    assert manifest["size"] == path.stat().st_size
    assert manifest["sha256"] == checkpoint.sha256(path)
    assert names(tmp_path) == {"iter_3.pth", "iter_3.pth.manifest.json"}


def test_two_processes_of_one_number_write_a_file_at_once(tmp_path):
    """As in two containers that share a folder: who is last wins, and neither fails."""
    path = tmp_path / "file"

    def write(file):
        file.write(b"first")
        checkpoint.atomic_write(path, lambda file: file.write(b"the other's"))
        assert path.read_bytes() == b"the other's"

    checkpoint.atomic_write(path, write)
    assert path.read_bytes() == b"first" and names(tmp_path) == {"file"}


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path):
    path = tmp_path / "file"
    checkpoint.atomic_write(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        checkpoint.atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_the_newest_valid_one_is_found_by_number_not_by_name_order(tmp_path):
    for iteration in (9, 10, 100):
        checkpoint.save(state(iteration), tmp_path / f"iter_{iteration}.pth")
    assert checkpoint.find_valid(tmp_path).name == "iter_100.pth"


def test_of_files_counted_by_steps_and_by_epochs_the_one_of_the_later_step_is_newest(tmp_path):
    checkpoint.save(state(100), tmp_path / "epoch_2.pth")
    checkpoint.save(state(50), tmp_path / "iter_50.pth")
    assert checkpoint.find_valid(tmp_path).name == "epoch_2.pth"


def test_a_file_that_does_not_say_its_step_counts_by_its_name(tmp_path):
    checkpoint.save(state(5), tmp_path / "iter_5.pth")
    checkpoint.save({"w": torch.ones(2)}, tmp_path / "iter_9.pth")
    assert checkpoint.find_valid(tmp_path).name == "iter_9.pth"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for iteration in (5, 9):
        checkpoint.save(state(iteration), tmp_path / f"iter_{iteration}.pth")
    (tmp_path / "iter_9.pth").unlink()
    (tmp_path / f".iter_12.pth.1{checkpoint.PARTIAL}").touch()
    checkpoint.sweep(tmp_path)
    assert names(tmp_path) == {"iter_5.pth", "iter_5.pth.manifest.json"}
    aside = checkpoint.set_aside(tmp_path / "iter_5.pth")
    assert names(tmp_path) == {aside.name, f"{aside.name}.manifest.json"}


def test_a_training_that_starts_anew_is_told_of_the_newest_that_is_there(tmp_path):
    checkpoint.refuse_overwriting(tmp_path)
    for iteration in (9, 10, 100):
        checkpoint.save(state(iteration), tmp_path / f"iter_{iteration}.pth")
    with pytest.raises(FileExistsError, match=r"the newest iter_100\.pth"):
        checkpoint.refuse_overwriting(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "bit flip", "no manifest", "empty manifest"])
def test_a_damaged_newest_one_is_passed_over_and_named(tmp_path, damage):
    for iteration in (5, 10):
        checkpoint.save(state(iteration), tmp_path / f"iter_{iteration}.pth")
    newest = tmp_path / "iter_10.pth"
    manifest = tmp_path / "iter_10.pth.manifest.json"
    if damage == "truncated":
        os.truncate(newest, newest.stat().st_size // 2)
    elif damage == "bit flip":
        flip_a_bit(newest)
        checkpoint.load(newest)  # torch does not notice
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("")
    with pytest.raises(checkpoint.CorruptCheckpoint, match=r"iter_10\.pth"):
        checkpoint.verify(newest)
    logged = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "print_log", lambda text, *args, **kwargs: logged.append(text))
        assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    assert len(logged) == 1 and "iter_10.pth" in logged[0]


@pytest.mark.parametrize("pointer", ["", "iter_77.pth", "/nowhere/iter_77.pth", "\0\0", None])
def test_a_useless_pointer_does_not_matter(tmp_path, pointer):
    checkpoint.save(state(5), tmp_path / "iter_5.pth")
    if pointer is None:  # is not waited for
        os.mkfifo(tmp_path / "last_checkpoint")
    else:
        (tmp_path / "last_checkpoint").write_text(pointer)
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    (tmp_path / "iter_5.pth").unlink()
    assert checkpoint.find_valid(tmp_path) is None


def test_the_pointer_leads_to_a_second_folder(tmp_path):
    (tmp_path / "work").mkdir()
    checkpoint.save(state(5), tmp_path / "elsewhere" / "iter_5.pth")
    checkpoint.point_to(tmp_path / "elsewhere" / "iter_5.pth", tmp_path / "work")
    assert checkpoint.find_valid(tmp_path / "work") == tmp_path / "elsewhere" / "iter_5.pth"


def test_a_copied_work_dir_goes_on_from_its_own_checkpoints(tmp_path):
    first, copy = tmp_path / "first", tmp_path / "copy"
    checkpoint.save(state(5), first / "iter_5.pth")
    checkpoint.point_to(first / "iter_5.pth", first)
    shutil.copytree(first, copy)
    checkpoint.save(state(9), first / "iter_9.pth")  # the original trains on
    assert checkpoint.find_valid(copy) == copy / "iter_5.pth"


def test_an_empty_or_missing_work_dir_has_no_valid_one(tmp_path):
    assert checkpoint.find_valid(tmp_path) is None
    assert checkpoint.find_valid(tmp_path / "missing") is None


@pytest.mark.parametrize("moment", ["ckpt.before_rename", "ckpt.before_manifest"])
def test_writing_the_same_step_again_never_leaves_it_invalid(tmp_path, monkeypatch, moment):
    path = tmp_path / "iter_5.pth"
    checkpoint.save(state(5), path)

    def die(name):
        if name == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "crash_point", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(state(5, size=2000), path)
    checkpoint.verify(path)
    expected = 1000 if moment == "ckpt.before_rename" else 2000
    assert len(checkpoint.load(path)["w"]) == expected
    monkeypatch.undo()
    checkpoint.save(state(5, size=3000), path)
    checkpoint.verify(path)
    assert "next" not in json.loads(checkpoint.manifest_path(path).read_text())


@pytest.fixture
def small_files():
    """No file may grow beyond 20 kB, which looks like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_one_and_says_how_much_is_needed(tmp_path, small_files):
    path = tmp_path / "iter_5.pth"
    checkpoint.save(state(5), path)
    large = {**state(5, size=100_000), "optimizer": [torch.zeros(1000, dtype=torch.float64)]}
    with pytest.raises(OSError, match=r"needs about 408,000 bytes, [\d,]+ are free") as caught:
        checkpoint.save(large, path)
    assert "\n" not in str(caught.value)
    checkpoint.verify(path)
    assert len(checkpoint.load(path)["w"]) == 1000
    assert names(tmp_path) == {"iter_5.pth", "iter_5.pth.manifest.json"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(64)),
        ("empty.pth", b""),
        ("text.pth", b"hello"),
        ("cut.pth", b"PK\x03\x04"),
        ("text.safetensors", b"hello, this is no safetensors file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        checkpoint.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_safetensors_file_is_loaded_and_a_missing_file_is_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(checkpoint.load(tmp_path / "w.safetensors")["w"], torch.ones(2))
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        checkpoint.load(tmp_path / "none.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        checkpoint.load(tmp_path / "list.pth")


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("format", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, format):
    evil = {"state_dict": {}, "evil": Canary(tmp_path / "canary")}
    path = tmp_path / "evil.pth"
    if format == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=format == "zip")
    with pytest.raises(checkpoint.UnsafeCheckpoint, match="safetensors") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


class Attribute:
    def __reduce__(self):
        return getattr, (torch.Tensor, "numpy")


def test_getattr_reaches_nothing_but_the_histories_statistics(tmp_path):
    torch.save({"x": Attribute()}, tmp_path / "evil.pth")
    with pytest.raises(checkpoint.UnsafeCheckpoint):
        checkpoint.load(tmp_path / "evil.pth")


def test_what_stock_mmengine_saves_is_plain_data(tmp_path):
    import numpy as np
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([1.0, 2.0], [1, 1])
    rich = {"h": history, "f": np.float32(1), "b": np.bool_(True), "a": np.arange(3, dtype="u1")}
    torch.save(rich, tmp_path / "rich.pth")
    loaded = checkpoint.load(tmp_path / "rich.pth")
    assert loaded["h"].statistics("mean") == 1.5
    assert loaded["a"].tolist() == [0, 1, 2]


CRASHES = {  # moment -> the step that is resumed from after a kill in the save of step 10
    "ckpt.mid_write": 5,
    "ckpt.before_rename": 5,
    "ckpt.before_manifest": 5,
    "ckpt.before_pointer": 10,
    "ckpt.mid_delete": 10,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("whole")
    toy_run.train(work_dir)
    return work_dir


@pytest.mark.parametrize(
    ("moment", "background"),
    [*((moment, False) for moment in CRASHES), ("ckpt.mid_write", True), ("ckpt.mid_delete", True)],
)
def test_a_kill_during_the_save_is_survived_with_a_single_kept_checkpoint(
    tmp_path, whole, moment, background
):
    one = dict(checkpoint=dict(max_keep_ckpts=1, background=background))
    assert toy_run.spawn(work_dir=tmp_path, crash=(10, moment), **one) == [toy_run.KILLED]
    assert bool(partials(tmp_path)) == (moment in ("ckpt.mid_write", "ckpt.before_rename"))
    assert checkpoint.find_valid(tmp_path).name == f"iter_{CRASHES[moment]}.pth"
    toy_run.train(tmp_path, resume="auto", **one)
    assert not partials(tmp_path)
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()
    assert {n for n in names(tmp_path) if n.startswith("iter_")} == {
        "iter_14.pth",
        "iter_14.pth.manifest.json",
    }


@pytest.mark.parametrize("keep", [1, 2])
def test_a_full_disk_stops_the_run_with_the_old_checkpoint_intact(tmp_path, keep):
    options = dict(checkpoint=dict(max_keep_ckpts=keep), width=512)
    assert toy_run.spawn(work_dir=tmp_path, limit=(10, 20_000), **options) == [2]
    assert "needs about" in (tmp_path / "error-0.txt").read_text()
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    assert not partials(tmp_path)


def test_with_on_full_continue_the_run_goes_on(tmp_path):
    options = dict(checkpoint=dict(on_full="continue"), width=512)
    assert toy_run.spawn(work_dir=tmp_path, steps=12, limit=(8, 20_000), **options) == [0]
    assert len(toy_run.seen(tmp_path)) == 12
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"


def test_two_checkpoints_are_kept_and_their_config_is_text_for_people(tmp_path):
    toy_run.train(tmp_path, steps=14, checkpoint=dict(interval=4))
    kept = {n for n in names(tmp_path) if n.startswith("iter_") and n.endswith(".pth")}
    assert kept == {"iter_12.pth", "iter_14.pth"}
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_14.pth")
    loaded = checkpoint.load(tmp_path / "iter_14.pth")
    assert not {"cfg", "config"} & loaded["meta"].keys()
    assert "cfg" not in loaded["message_hub"]["runtime_info"]
    assert "purpose" in loaded["config_text"]


def test_save_best_keeps_one_best_and_removes_its_predecessor(tmp_path):
    toy_run.train(
        tmp_path,
        steps=14,
        validate=True,
        checkpoint=dict(save_best="value", rule="less", max_keep_ckpts=1),
    )
    best = {n for n in names(tmp_path) if n.startswith("best_")}
    assert len(best) == 2  # the file and its manifest
    checkpoint.verify(next(tmp_path.glob("best_*.pth")))
    assert checkpoint.find_valid(tmp_path).name == "iter_14.pth"
    hub = checkpoint.load(tmp_path / "iter_14.pth")["message_hub"]["runtime_info"]
    assert Path(hub["best_ckpt"]).exists()


def test_the_clock_saves_between_two_intervals(tmp_path):
    toy_run.train(tmp_path, steps=14, checkpoint=dict(interval=100, minutes=1e-9, save_last=False))
    assert checkpoint.find_valid(tmp_path).name == "iter_10.pth"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(by_epoch=True, minutes=5), "by_epoch=False"),
        (dict(on_full="wait"), "stop or continue"),
        (dict(max_keep_ckpts=0), "keep nothing"),
        (dict(filename_tmpl="model_{}.pth"), "leave it out"),
    ],
)
def test_options_that_cannot_work_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        CheckpointHook(**options)


def test_by_epoch_is_refused_in_an_iteration_based_loop(tmp_path):
    with pytest.raises(ValueError, match="by_epoch=False"):
        toy_run.train(tmp_path, checkpoint=dict(by_epoch=True))


def strange_tensors():
    nan = torch.ones(3)
    nan[1] = float("nan")
    yield "holds NaN", {"state_dict": {"w": nan}}
    yield "holds NaN", {"state_dict": {}, "optimizer": {"state": {0: {"exp_avg": nan}}}}
    yield "not a plain tensor", {"state_dict": {"w": torch.ones(1).expand(1 << 40)}}
    yield "not a plain tensor", {"state_dict": {"w": torch.ones(3).to_sparse()}}
    yield "not a plain tensor", {"state_dict": {"w": torch.ones(3, device="meta")}}


@pytest.mark.parametrize(("words", "state"), list(strange_tensors()))
def test_weights_with_which_nothing_can_be_computed_are_refused_at_the_door(tmp_path, words, state):
    path = tmp_path / "iter_5.pth"
    torch.save({"meta": {"iter": 5}, "message_hub": {}, "optimizer": {}, **state}, path)
    for read in (checkpoint.load, checkpoint.weights):
        with pytest.raises(ValueError, match=rf"iter_5\.pth: .*{words}"):
            read(path)
    with pytest.raises(ValueError, match=words):
        mmengine_patches.resolve_resume(tmp_path, path)


def test_the_remedy_for_a_refused_checkpoint_a_safetensors_file_is_read_as_weights(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert torch.equal(checkpoint.weights(tmp_path / name)["w"], torch.ones(2))
    for number, wrong in enumerate(({"a": 1}, {"state_dict": [1]}, {"state_dict": {"w": "x"}}, {})):
        torch.save(wrong, tmp_path / f"{number}.pth")
        with pytest.raises(ValueError, match=rf"{number}\.pth holds no weights: its keys are"):
            checkpoint.weights(tmp_path / f"{number}.pth")


def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path):
    torch.save({}, tmp_path / "iter_5.pth")
    os.mkfifo(checkpoint.manifest_path(tmp_path / "iter_5.pth"))
    with pytest.raises(checkpoint.CorruptCheckpoint, match="no readable manifest"):
        checkpoint.verify(tmp_path / "iter_5.pth")
