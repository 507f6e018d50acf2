"""From an mm config and a command line to a config that our engine trains and tests safely."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from sparc_pretrain import shipped
from sparc_pretrain.command import cli
from sparc_pretrain.config_tree import dicts
from transfer import mm
from transfer.mm.norms import single_process_norms
from transfer.plug import adopt_own, explain, layer_wise
from transfer.plug.config import BACKBONE
from transfer.plug.replace import Ledger
from transfer.run.own_data import take_data

__all__ = ["check_files", "harden", "load", "set_hook", "single_process_norms"]

JUDGES = ("sparc.DetectionMetric", "sparc.FixedDetectionMetric")
# The engine's rules for any mm config: random state in checkpoints, signals, non-finite steps,
# records.
ENGINE_HOOKS = (
    "sparc.RandomStateHook",
    "sparc.PreemptHook",
    "sparc.NonFiniteHook",
    "sparc.LoadedWeightsHook",
    "sparc.ResumedScheduleHook",
    "sparc.DataCheckHook",
    "sparc.RecordHook",
)


def load(
    config: str,
    options: dict[str, Any] | None,
    work_dir: str | None,
    backbone: str | None = None,
    scratch: bool = False,
    layer_decay: float | None = None,
    dry: bool = False,
    adamw: bool = False,
    data: str | None = None,
) -> Config:
    """Read a config (a path, or ``mmdet::...`` / ``mmseg::...``), put the backbone and a folder of
    `data` in, check it.

    With `dry`, print what these changed and why, and neither check nor touch the disk.

    Raises:
        FileNotFoundError: config or data are missing. ValueError: typos (the nearest name is
            given).
    """
    config = mm.locate(config)
    # what a config imports may be there for the old backbone alone: see it go first
    cfg = cli.read_config(config, custom_imports=not backbone)
    follow_move(cfg, config)
    # what is said of a backbone that goes is meant for the one that comes
    later = {k: v for k, v in (options or {}).items() if backbone and _of_what_comes(cfg, k)}
    cfg.merge_from_dict({k: v for k, v in (options or {}).items() if k not in later})
    if "model" not in cfg:
        raise ValueError(
            f"{config} has no model: give a config from configs/, not one of its parts"
        )
    if adamw and not backbone:
        raise ValueError("--adamw needs --backbone RUN; without it, write optim_wrapper yourself")
    if scratch and not backbone:
        raise ValueError("--from-scratch needs --backbone RUN, whose architecture it takes")
    if "schedule" in cfg and "train_dataloader" not in cfg:
        raise ValueError(f"{config} is a pre-training config: use tools/pretrain.py")
    changes = explain(cfg, backbone, scratch, layer_decay, adamw) if backbone else []
    cfg.merge_from_dict(later)
    if backbone and cfg.get("custom_imports") and (data or not dry):
        import_modules_from_strings(**cfg.custom_imports)
    if not backbone:
        if layer_decay is not None:
            layer_wise(cfg, layer_decay, Ledger())
        for change in adopt_own(cfg):
            print_log(f"backbone.run: {change}", "current")
    if data:
        if cfg.get("default_scope", "mmdet") in mm.SCOPES:
            mm.register(cfg.get("default_scope", "mmdet"))
        take_data(cfg, data, ledger := Ledger())
        changes += ledger.changes
    if dry:
        print("\n".join(map(str, changes)) or f"{config}: nothing to change")
        return cfg
    name_truth(cfg)
    cfg.config_name = _name(Path(config), cfg)
    cfg.work_dir = work_dir or cfg.get("work_dir") or f"work_dirs/{Path(config).stem}"
    scope = cfg.get("default_scope", "mmdet")
    if scope in mm.SCOPES:
        mm.register(scope)
    harden(cfg)
    cli.check_config(cfg)
    cli.writable(cfg.work_dir)
    return cfg


def _name(config: Path, cfg: Config) -> str:
    """What records call a config: its path, wherever the tool is called from; of the copy in a work
    dir, the name of what was copied, so that a test stands beside other evaluations of it.
    """
    config, told = config.resolve(), cfg.get("config_name")
    beside = Path(cfg.get("work_dir") or "").name == config.parent.name
    if told and beside and Path(told).name == config.name:
        return told
    for root in (shipped.folder(), Path.cwd()):
        if config.is_relative_to(root):
            return str(config.relative_to(root))
    return str(config)


def name_truth(cfg: Config) -> None:
    """An evaluator of ours that names no annotation file judges by that of its data set, in place:
    the file is said once.
    """
    for key in ("val", "test"):
        told = cfg.get(f"{key}_evaluator") or []
        for metric in told if isinstance(told, (list, tuple)) else [told]:
            sources = [d for d in _datasets(cfg.get(f"{key}_dataloader")) if d.get("ann_file")]
            if metric.get("type") in JUDGES and not metric.get("ann_file") and len(sources) == 1:
                root = Path(sources[0].get("data_root") or "")
                metric["ann_file"] = str(root / sources[0]["ann_file"])


def follow_move(cfg: Config, config: str | Path) -> None:
    """A captioner's config names a folder in its work dir (`CaptionerFilesHook`); where it is no
    longer, because the work dir was moved or copied, that beside the config is read.
    """
    words = (cfg.get("model") or {}).get("language_model") or {}
    told, here = words.get("architecture"), Path(config).parent / "language_model"
    if isinstance(told, str) and Path(told).name == here.name and not Path(told).exists():
        words["architecture"] = str(here) if here.exists() else told


def _of_what_comes(cfg: Config, option: str) -> bool:
    """Whether an option is about what `plug` puts in: keys of a backbone that is not yet a
    SparcViT, or the weights of the whole model.
    """
    if option == "load_from":
        return True
    path, found, _ = f".{option}.".partition(".backbone.")
    if not found:
        return False
    node: Any = cfg
    for key in [*path.strip(".").split("."), "backbone"]:
        node = node.get(key) if isinstance(node, dict | Config) else None
    return isinstance(node, dict) and node.get("type") not in BACKBONE


def harden(cfg: Config) -> Config:
    """Give `cfg` the engine's checkpoints, optimizer guard and hooks, in place."""
    hooks = dict(cfg.get("default_hooks") or {})
    checkpoint = dict(hooks.get("checkpoint") or dict(type="CheckpointHook", interval=1))
    if checkpoint.get("type") == "CheckpointHook":
        checkpoint["type"] = "sparc.CheckpointHook"
    cfg.default_hooks = {**hooks, "checkpoint": checkpoint}
    present = {hook.get("type") for hook in cfg.get("custom_hooks") or []}
    added = [dict(type=name) for name in ENGINE_HOOKS if name not in present]
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), *added]
    if (cfg.get("randomness") or {}).get("seed") is None:
        # without a seed the order of the data would change with a resume
        cfg.randomness = {**(cfg.get("randomness") or {}), "seed": 0}
    # mm's configs call every visualizer "visualizer", so that a second run of a process would get
    # the first one's, and its drawing hook, which takes the newest, another's; the Runner's name
    # for it is the experiment's
    if (cfg.get("visualizer") or {}).get("name") == "visualizer":
        cfg.visualizer.pop("name")
    wrapper = cfg.get("optim_wrapper")
    if wrapper and wrapper.get("type", "OptimWrapper") in ("OptimWrapper", "AmpOptimWrapper"):
        wrapper["amp"] = wrapper.get("type") == "AmpOptimWrapper"
        wrapper["type"] = "sparc.GuardedOptimWrapper"
        for key in ("loss_scale", "dtype", "use_fp64"):
            wrapper.pop(key, None)
    return cfg


def set_hook(cfg: Config, kind: str, **options: Any) -> None:
    """Options of the custom hook `kind`, which `harden` has put in, in place."""
    for hook in cfg.custom_hooks:
        if hook["type"] == kind:
            hook.update(options)


def check_files(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Every annotation file and image folder that `loaders` name must be there.

    Raises:
        FileNotFoundError: naming the first that is missing and the key it came from.
    """
    for loader in loaders:
        for dataset in _datasets(cfg.get(loader)):
            root = Path(dataset.get("data_root") or "")
            named = [("ann_file", dataset.get("ann_file"))]
            named += list((dataset.get("data_prefix") or {}).items())
            for key, value in named:
                if isinstance(value, str) and value and not (root / value).exists():
                    hint = "; this config is for your own: --data DIR" if "own_data" in cfg else ""
                    raise FileNotFoundError(f"{loader}: {key} {root / value} does not exist{hint}")


def _datasets(node: Any) -> Iterator[dict]:
    return (d for _, d in dicts(node) if "data_prefix" in d or "ann_file" in d)
