"""Every config under configs/ loads, is accepted at the door, and all that it names is built."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, TRANSFORMS, DefaultScope

from sparc_pretrain.command import cli
from sparc_pretrain.data.scenes import write_scenes
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.pretraining.recipe import complete, with_objective
from tests.commands import ROOT, call, refusal
from tests.models import pretrainer, saved
from tests.parameter_groups import assert_only_matrices_decay, groups_of
from transfer import mm
from transfer.run.recipe import harden, single_process_norms

CONFIGS = ROOT / "configs"
LEAVES = sorted(p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
MAX_LINES = 40


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def is_pretraining(cfg: Config) -> bool:
    return "schedule" in cfg


PRETRAINING = [p for p in LEAVES if is_pretraining(Config.fromfile(p))]
TRANSFER = [p for p in LEAVES if p not in PRETRAINING]
WITH_CLASSES = [  # an open-vocabulary detector has no classes of its own
    p
    for p in TRANSFER
    if Config.fromfile(p).task in ("detection", "segmentation") and "open_vocabulary" not in p.stem
]
leaves = pytest.mark.parametrize("path", LEAVES, ids=name)


def code_lines(text: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    document = ast.parse(text).body[0]
    return len(lines - set(range(document.lineno, document.end_lineno + 1)))


def test_code_lines_are_counted_without_docstring_comments_and_blanks() -> None:
    assert code_lines('"""A\n\nB."""\n# c\nx = [\n    1,\n]\n\ny = 2  # d\n') == 4


@leaves
def test_a_leaf_is_short(path: Path) -> None:
    assert code_lines(path.read_text()) <= MAX_LINES


@leaves
def test_the_docstring_gives_the_command_of_this_config_or_names_the_one_that_does(
    path: Path,
) -> None:
    told = ast.get_docstring(ast.parse(path.read_text()))
    commands = re.findall(r"tools/(?:pretrain|train|study)\.py (configs/\S+\.py)", told)
    if commands:
        assert set(commands) == {path.relative_to(ROOT).as_posix()}
    else:
        (other,) = re.findall(r"configs/\S+\.py", told)
        assert f"tools/pretrain.py {other}" in (ROOT / other).read_text()


@leaves
def test_the_command_of_the_docstring_is_one_that_the_tool_understands(path: Path) -> None:
    from tests.commands import tool

    told = ast.get_docstring(ast.parse(path.read_text())).replace("\\\n", " ")
    for which, words in re.findall(r"tools/(pretrain|train)\.py (.*)", told):
        args = tool(which).parse(words.split())
        assert (ROOT / args.config).is_file()


RECIPES = [f"{folder}sparc.py" for folder in ("", "quickstart/", "flickr8k/")]
OTHERS = {
    "clip": "Clip",
    "filip": "Filip",
    "pacl": "Pacl",
    "gloria": "Gloria",
    "mgca": "Mgca",
    "siglip": "Siglip",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_objectives_share_towers_adapters_data_order_and_schedule(
    recipe: str, scenes: Path, tmp_path: Path
) -> None:
    """The whole configs, as the tool completes them, are equal but for the objective; so are the
    names, shapes and types of towers and adapters.
    """

    def completed(name: str) -> tuple[dict, dict, dict]:
        cfg = with_objective(Config.fromfile(CONFIGS / recipe), name)
        cfg.data.sources = str(scenes / "shards" / "train-*.tar")
        cfg.work_dir = str(tmp_path)
        complete(cfg)
        encoder = on_meta({**cfg.model, "type": "sparc.Pretrainer"}).encoder.state_dict()
        whole = cfg.to_dict()
        objective = whole["model"].pop("objective")
        return whole, objective, {k: (v.shape, v.dtype) for k, v in encoder.items()}

    ours, objective, encoder = completed("sparc")
    assert objective["type"] == "Sparc" and "adapters.h_v.0.weight" in encoder
    assert {"sampler", "dataset"} <= ours["train_dataloader"].keys()  # order and data
    for other, kind in OTHERS.items():
        assert completed(other) == (ours, {"type": kind}, encoder)


@pytest.mark.parametrize("other", OTHERS)
def test_a_leaf_of_the_papers_scale_differs_from_sparcs_in_its_objective_alone(other: str) -> None:
    leaf = Config.fromfile(CONFIGS / f"{other}.py").to_dict()
    base = with_objective(Config.fromfile(CONFIGS / "sparc.py"), other).to_dict()
    assert leaf == base and base["model"]["objective"]["type"] == OTHERS[other]


@pytest.mark.parametrize("name", ["xvlm", "uniter", "oscar", "kaleido"])
def test_systems_with_boxes_differ_from_sparc_where_they_must_and_nowhere_else(name: str) -> None:
    """In objective, text layers, data and rates: towers and the shared space are the same."""
    sparc, other = (Config.fromfile(CONFIGS / f"{n}.py").to_dict() for n in ("sparc", name))
    for cfg in (sparc, other):
        cfg["model"].pop("objective"), cfg["model"]["text"].pop("layers"), cfg.pop("schedule")
        cfg["model"].pop("guide", None), cfg["model"].pop("guide_reading", None)
        for key in ("sources", "fields", "global_batch", "dataset"):
            cfg["data"].pop(key, None)
        cfg["optim_wrapper"].pop("paramwise_cfg", None)
        for key in ("lr", "weight_decay"):
            cfg["optim_wrapper"]["optimizer"].pop(key)
    assert sparc == other


def test_an_objective_that_no_config_has_is_refused_with_the_nearest() -> None:
    line = refusal(call("pretrain", CONFIGS / "quickstart/sparc.py", "--objective", "flip"))
    assert line == "error: --objective flip: no configs/flip.py (did you mean 'filip'?)"


@pytest.mark.parametrize("other", OTHERS)
def test_objectives_start_from_the_same_weights(other: str) -> None:
    """One seed gives one encoder: objectives draw their own parameters after it."""
    starts = []
    for objective in (dict(type="Sparc"), dict(type=OTHERS[other])):
        torch.manual_seed(0)
        starts.append(pretrainer(objective).encoder.state_dict())
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][k], starts[1][k]) for k in starts[0])


# ------------------------------------------------------------------ what they name is built


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes as shards, a tokenizer beside them."""
    folder = tmp_path_factory.mktemp("scenes")
    code, said = call(
        "data", "scenes", "--out", folder, "--train", "8", "--val", "2", "--size", "48"
    )
    assert code == 0, said
    Tokenizer.train(["a red star", "two blue fish"], 300).save(folder)
    return folder


# Batches in an epoch, of the data sets that these configs were measured on.
EPOCH_STEPS = {
    "flickr8k/det.py": 375,
    "flickr8k/det_lvis.py": 392,
    "coco_subset/mask_rcnn.py": 54,
}


def assert_optimizer_and_schedule_are_built(cfg: Config, model: torch.nn.Module) -> None:
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    held = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert trained and trained <= held
    schedulers = cfg.param_scheduler
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    for spec in schedulers:
        PARAM_SCHEDULERS.build(dict(spec), default_args=dict(optimizer=wrapper))
    # the rate falls at the end of the training, not somewhere on its way
    by_epoch = schedulers[-1].get("by_epoch", True)
    whole = cfg.train_cfg.get("max_epochs" if by_epoch else "max_iters")
    if whole is None:  # a schedule of steps for a training of epochs: the config says how many
        whole = cfg.train_cfg.max_epochs * EPOCH_STEPS[name(Path(cfg.filename))]
    assert schedulers[-1].get("end", schedulers[-1].get("T_max", whole)) == whole


def on_meta(config: dict[str, Any]) -> torch.nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return MODELS.build(config)


@pytest.mark.parametrize("path", PRETRAINING, ids=name)
def test_a_pretraining_config_is_complete_and_built(
    path: Path, scenes: Path, tmp_path: Path
) -> None:
    cfg = Config.fromfile(path)
    cli.check_config(cfg)
    boxed = "boxes-" if cfg.data.get("fields") else ""
    cfg.data.sources = str(scenes / "shards" / f"{boxed}train-*.tar")
    cfg.work_dir = str(tmp_path)
    complete(cfg)
    cli.check_config(cfg)
    model = on_meta({**cfg.model, "type": "sparc.Pretrainer"})
    assert model.encoder.text.config()["vocab_size"] == cfg.model.text.vocab_size
    assert model.encoder.vision.img_size == cfg.data.image_size
    assert_optimizer_and_schedule_are_built(cfg, model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert_only_matrices_decay(model, wrapper, cfg.optim_wrapper.optimizer.weight_decay)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sample = dataset[0]
    assert sample["image"].shape == (3, cfg.data.image_size, cfg.data.image_size)
    assert len(sample["ids"]) <= cfg.data.max_tokens


def datasets(node: Any):
    """Every dict below `node` that is a data set with a pipeline."""
    if isinstance(node, dict):
        if "pipeline" in node:
            yield node
        for value in node.values():
            yield from datasets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from datasets(value)


@pytest.mark.parametrize("path", TRANSFER, ids=name)
def test_a_transfer_config_is_accepted_and_built(path: Path, scenes: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(path)
    scope = cfg.default_scope
    if scope in mm.SCOPES:
        mm.register(scope)
    harden(cfg)
    cli.check_config(cfg)
    single_process_norms(cfg.model)
    captioner, pairs = cfg.model.type == "sparc.FlamingoCaptioner", "run" in cfg.model
    if pairs:
        cfg.model.run = str(saved("Xvlm", tmp_path / "xvlm", ["a red star"], layers=1))
        cfg.model.update(dict(answers=["yes"]) if "answers" in cfg.model else {})
    if captioner:
        cfg.model.tokenizer = str(scenes / "tokenizer.json")
        if "pretrained" in cfg.model.language_model:  # a folder that is not there: GPT-2 small
            cfg.model.language_model = dict(model_type="gpt2")
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model) if pairs else on_meta(cfg.model)
        assert_optimizer_and_schedule_are_built(cfg, model)
        if captioner or pairs:
            found = groups_of(model, build_optim_wrapper(model, cfg.optim_wrapper))
            decayed = {name for name, (_, decay) in found.items() if decay}
            bare = {n for n, p in model.named_parameters() if p.ndim < 2 or n.endswith(".latents")}
            assert decayed and not decayed & bare
        pipelines = [
            d for key in ("train", "val", "test") for d in datasets(cfg[f"{key}_dataloader"])
        ]
        assert captioner or pairs or len(pipelines) >= 3
        for dataset in pipelines:
            for transform in dataset["pipeline"]:
                TRANSFORMS.build(transform)
    assert cfg.task in ("detection", "segmentation", "captioning", "vqa", "nlvr")


@pytest.mark.parametrize("path", WITH_CLASSES, ids=name)
def test_heads_and_data_of_a_transfer_config_have_the_same_classes(path: Path) -> None:
    cfg = Config.fromfile(path)
    scope = cfg.default_scope
    mm.register(scope)
    inner = cfg.train_dataloader.dataset
    while "dataset" in inner or "datasets" in inner:  # repeated, or joined from several
        inner = inner.dataset if "dataset" in inner else inner.datasets[0]
    with DefaultScope.overwrite_default_scope(scope):
        kind = DATASETS.get(f"{scope}.{inner.type}")
    classes = (inner.get("metainfo") or kind.METAINFO)["classes"]
    counts = set(re.findall(r"'num_classes': (\d+)", str(cfg.model.to_dict())))
    assert counts == {str(len(classes))}


def test_the_names_of_the_scenes_are_those_of_the_data(tmp_path: Path) -> None:
    import json

    base = Config.fromfile(CONFIGS / "_base_" / "scenes.py")
    write_scenes(tmp_path, 1, 1, 48)
    truth = json.loads((tmp_path / "annotations" / "instances_val.json").read_text())
    names = [row["name"] for row in truth["categories"]]
    assert names == list(base.scene_things) and list(base.easy_things) == names[:12]
    listed = json.loads((tmp_path / "ade" / "classes.json").read_text())
    text = json.dumps(listed)
    assert all(f'"{one}"' in text for one in base.scene_classes)
    assert len(base.scene_palette) == len(base.scene_classes) == 44
    write_scenes(tmp_path / "easy", 1, 1, 48, level="easy")
    easy = json.loads((tmp_path / "easy/ade/classes.json").read_text())
    assert all(f'"{one}"' in json.dumps(easy) for one in base.easy_classes)
    assert len(base.easy_palette) == len(base.easy_classes) == 20
