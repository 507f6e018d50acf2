"""No tool runs code, opens a file or fetches anything because a run folder says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.engine import mmengine_patches
from sparc_pretrain.metrics_file import write_metrics
from sparc_pretrain.page.answers import Answers
from sparc_pretrain.pretraining import starting_weights
from sparc_pretrain.pretraining.onlookers import Guide
from sparc_pretrain.registry import OBJECTIVES, build_described
from sparc_pretrain.zeroshot import encode
from tests.commands import call, refusal
from tests.models import TEXT, pretrainer
from transfer.captioning.metrics.likeness import clip_scores

PHOTO = "images/a.png"
DETECTOR = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A run folder, a photo with a caption and a record beside it."""
    root = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    words = Tokenizer.train(["a red kite over the hill"] * 3, 270)
    model = pretrainer()
    config, weights = model.run_config(0), model.run_weights()
    config["text"]["vocab_size"] = words.vocab_size
    table = "text.net.embeddings.token_embedding.weight"
    weights[table] = torch.randn(words.vocab_size, TEXT["width"])
    run_folder.write(root / "run", config, weights, words.to_json())
    (root / "images").mkdir()
    Image.new("RGB", (32, 32), "red").save(root / PHOTO)
    captions = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a red kite"}],
    }
    (root / "words.json").write_text(json.dumps(captions))
    write_metrics(root / "metrics.json", "retrieval", {"R@1": 1.0}, {}, None)
    return root


class Touch:
    """A pickle that makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def lies(canary: Path) -> dict[str, tuple[str, dict]]:
    """What a forged config.json may say: name -> (section, its new entries)."""
    quote = f"x': __import__('os').system('touch {canary}'), 'y"
    torch.save({"state_dict": Touch(canary)}, canary.with_suffix(".pth"))
    weights = str(canary.with_suffix(".pth"))
    return {
        "a function": ("objective", {"type": "os.system", "command": f"touch {canary}"}),
        "a class": (
            "objective",
            {"type": "subprocess.Popen", "args": ["touch", str(canary)]},
        ),
        "a scope": ("objective", {"type": "mmengine.Config", "_scope_": "mmengine"}),
        "weights of elsewhere": ("vision", {"overrides": {"checkpoint_path": weights}}),
        "a fetched tower": ("vision", {"arch": "hf-hub:nobody/nothing"}),
        "code as a key": ("vision", {quote: 1}),
        "code as a key of words": ("text", {quote: 1}),
        "code as an override": ("vision", {"overrides": {quote: 1}}),
    }


OBJECTIVE_LIES = ("a function", "a class", "a scope")
LIES = (*OBJECTIVE_LIES, "weights of elsewhere", "a fetched tower", "code as a key")
LIES = (*LIES, "code as a key of words", "code as an override")


@pytest.fixture
def forge(good, tmp_path):
    """Copies `good` and makes its run folder lie; nothing may have run in the end."""
    canary = tmp_path / "canary"

    def forged(lie: str) -> Path:
        run = run_folder.open_run(good)
        section, entries = lies(canary)[lie]
        config = json.loads(json.dumps(run.config))
        config[section] = entries if section == "objective" else {**config[section], **entries}
        words = (run.path / run_folder.TOKENIZER).read_text()
        root = tmp_path / "forged"
        for name in (PHOTO, "words.json", "metrics.json"):
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            (root / name).write_bytes((good / name).read_bytes())
        written(root / "run", config, run.weights(), words)
        return root

    yield forged
    assert not canary.exists()


def written(folder: Path, config: dict, weights: dict, words: str) -> None:
    """A run folder that is whole, whatever its config says."""
    folder.mkdir()
    run_folder._fill(folder, config, weights, words)


def tools(root: Path) -> dict[str, list]:
    """The command of every tool that reads a run folder."""
    run, photo, out = root / "run", root / PHOTO, root / "out"
    pairs = ["--images", root / "images", "--captions", root / "words.json"]
    work = ["--work-dir", root / "work", "--dry-run"]
    return {
        "align": ["align", run, photo, "a red kite", "--out", out / "a.png"],
        "zeroshot": ["zeroshot", run, "retrieval", *pairs, "--out", out / "m.json"],
        "report": ["report", root, "--out", out / "r.html", "--images", root / "images"],
        "verify": ["verify", run],
        "convert": ["convert", run, root / "exported", "--to", "timm"],
        "train": ["train", DETECTOR, "--backbone", run, *work],
        "caption": ["train", "configs/quickstart/caption.py", "--backbone", run, *work],
    }


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", tools(Path()))
def test_a_forged_run_folder_runs_nothing_and_is_refused_in_one_line(forge, name, lie):
    if name in ("convert", "train", "caption") and lie in OBJECTIVE_LIES:
        pytest.skip("reads no objective")
    root = forge(lie)
    line = refusal(call(*tools(root)[name]))
    assert str(root) in line, line


@pytest.mark.parametrize("lie", ["weights of elsewhere", "code as a key", "code as an override"])
def test_a_pretraining_that_starts_from_a_forged_run_folder_is_refused(forge, lie):
    root = forge(lie)
    with pytest.raises(ValueError, match=str(root)):
        starting_weights.adopt(Config(dict(model=dict(init_from=str(root / "run"), vision={}))))


@pytest.mark.parametrize("lie", LIES)
def test_a_demo_a_guide_and_a_judge_of_captions_that_lie_are_refused(forge, lie):
    root = forge(lie)
    readers = {
        "demo": Answers.of,
        "guide": lambda run: Guide(run, "local", None),
        "judge": lambda run: clip_scores(run, [root / PHOTO], ["a red kite"]),
    }
    for name, read in readers.items():
        if lie not in OBJECTIVE_LIES or name in ("demo", "guide"):
            with pytest.raises(ValueError, match=str(root)):
                read(root / "run")


def test_the_true_one_is_read_by_all_of_them(good):
    for name in ("align", "zeroshot", "report", "verify", "convert"):
        assert call(*tools(good)[name]) == (0, ""), name


@pytest.mark.parametrize("key", ["x': open('canary', 'w'), 'y", "a\\", "a\nb"])
def test_a_key_that_would_be_code_in_a_written_config_is_refused(tmp_path, monkeypatch, key):
    mmengine_patches.install()
    monkeypatch.chdir(tmp_path)
    for cfg in (Config(dict(a={key: 1})), Config(dict(a=[dict(b=({key: 1},))]))):
        with pytest.raises(ValueError, match="cannot be written down"):
            cfg.dump("written.py")
    names = {"straße": 0, "a b": 1}
    Config(dict(a=names)).dump("written.py")
    assert Config.fromfile("written.py").a == names and not Path("canary").exists()


def test_a_described_part_has_a_name_of_the_table_and_arguments_of_its_constructor():
    assert type(build_described(OBJECTIVES, dict(type="Clip"), "c.json")).__name__ == "Clip"
    for described, words in (
        (dict(type="clip"), r"'clip' is no objective.*did you mean 'Clip'"),
        (dict(type="sparc.Clip"), "is no objective"),
        (dict(type=["Clip"]), "is no objective"),
        ({}, "None is no objective"),
        (dict(type="Clip", tau=1), "Clip takes no argument 'tau'"),
        (dict(type="Sparc", self=1), "Sparc takes no argument 'self'"),
        (dict(type="Sparc", detach=[dict(type="os.system")]), "neither a number nor a word"),
        (dict(type="Sparc", detach=[1, object()]), "neither a number nor a word"),
        (dict(type="Mgca", width=-1), "Mgca cannot be built"),
        (dict(type="Mgca"), "Mgca cannot be built: .*'width'"),
    ):
        with pytest.raises(ValueError, match=f"c.json: .*{words}"):
            build_described(OBJECTIVES, described, "c.json")


def test_an_objective_with_a_fusion_encoder_comes_out_of_its_run_folder(good, tmp_path):
    objective = dict(type="Xvlm", fusion=dict(layers=1, heads=2), mask_id=3, word_ids=[4, 40])
    model = pretrainer(objective)
    assert "fusion" in model.run_config(0)["objective"]
    run = run_folder.write(tmp_path / "run", model.run_config(0), model.run_weights(), None)
    _, again = encode.load(run.path)
    for name, weight in model.objective.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
