"""The plan of a study: arms x seeds under one pre-training recipe, read from its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from sparc_pretrain.command import cli
from sparc_pretrain.command.cli import nearest
from sparc_pretrain.study import transfers
from sparc_pretrain.study.statistics import BOUND
from sparc_pretrain.study.transfers import Transfer

KEYS = {"arms", "seeds", "baseline", "evaluations", "presets", "sweeps", "primary", "equivalence"}
KEYS |= {"root", "transfers"}
PATHS = ("images", "captions", "annotations", "classes", "phrases", "labels", "shards", "boxes")
PATHS += tuple(f"train_{name}" for name in PATHS)
ARM_KEYS = {
    "objective",
    "options",
    "seeds",
    "budget",
    "as_long_as",
    "trained",
    "group",
    "label",
    "twin_of",
}
SWEEP_KEYS = {"arms", "key", "values", "seeds", "budget"}
MOST_PRIMARY = 6  # outcomes that decide
LOGGED_EVERY = 10  # steps, mmengine's default
LEARNT_FROM = ("schedule", "data", "tokenizer", "model", "optim_wrapper", "param_scheduler")
LEARNT_FROM += ("train_dataloader",)
HOW_ONLY = {"data.workers", "data.timeout", "model.grad_checkpointing"}


@dataclass(frozen=True)
class Arm:
    """One row of the study.

    Args:
        name: its key in the config. objective: config of the objective.
        options: other keys of the recipe that this arm changes, ``{"optim_wrapper...": value}``.
        seeds: of weights and data order.
        budget: its share of the recipe's steps.
        as_long_as: the arm whose training time it is given, instead of its number of steps.
        trained: False = the towers as they are initialised.
        twin_of: the arm that a control is held against, in the place of the baseline.
        group: 'main', 'control' or 'sweep': the table it is shown in. label: its name there.
    """

    name: str
    objective: dict[str, Any]
    seeds: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    budget: float = 1.0
    as_long_as: str | None = None
    trained: bool = True
    group: str = "main"
    label: str = ""
    twin_of: str | None = None


@dataclass(frozen=True)
class Cell:
    """One training with its evaluation: an arm and a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """The stem of the cell's files."""
        return f"{self.arm.name}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study: `recipe` is the pre-training config, `evaluations` go to `evaluate.measure`;
    `primary` are the outcomes that decide, named beforehand, and differences within `equivalence`
    count as none; `transfers` are fine-tuned from each run folder.
    """

    recipe: Config
    arms: dict[str, Arm]
    baseline: str
    evaluations: list[dict[str, Any]]
    primary: tuple[str, ...] = ()
    equivalence: float = BOUND
    transfers: Sequence[Transfer] = ()

    @property
    def twins(self) -> dict[str, str]:
        """Arm -> the arm it is held against in the place of the baseline."""
        return {arm.name: arm.twin_of for arm in self.arms.values() if arm.twin_of}

    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that an interrupted study has comparable rows; an arm that
        waits for another's time comes after it.
        """
        arms = sorted(self.arms.values(), key=lambda arm: arm.as_long_as is not None)
        seeds = sorted({seed for arm in arms for seed in arm.seeds})
        found = [Cell(arm, seed) for seed in seeds for arm in arms if seed in arm.seeds]
        # the main table first: sweeps are for reading it
        return sorted(found, key=lambda cell: cell.arm.group == "sweep")

    def cell_config(self, cell: Cell, time_ratio: float = 1.0) -> Config:
        """The complete recipe of one cell. `time_ratio` stretches the steps of an arm that is
        given another's time.
        """
        cfg = Config(self.recipe.to_dict())
        cfg.model.objective = dict(cell.arm.objective)
        cfg.randomness = {**(cfg.get("randomness") or {}), "seed": cell.seed}
        schedule = cfg.schedule
        share = cell.arm.budget * (time_ratio if cell.arm.as_long_as else 1)
        schedule.steps = max(2, round(schedule.steps * share))
        schedule.warmup = min(round(schedule.warmup * share), schedule.steps - 1)
        # what a step costs is read from the log: a short cell needs a line of it too
        logger = cfg.setdefault("default_hooks", {}).setdefault("logger", dict(type="LoggerHook"))
        logger["interval"] = min(logger.get("interval", LOGGED_EVERY), schedule.steps)
        cfg.merge_from_dict(cell.arm.options)
        return cfg

    def recipe_of(self, cell: Cell) -> dict[str, Any]:
        """What of a cell's recipe decides what is learnt, as flat ``{"schedule.steps": 320}``: goes
        into its record, so that cells of two recipes never make one table.
        """
        cfg = self.cell_config(cell).to_dict()
        found: dict[str, Any] = {}
        for key in LEARNT_FROM:
            _flatten(cfg.get(key), key, found)
        return {key: value for key, value in found.items() if key not in HOW_ONLY}


def read(
    path: str | Path, preset: str | None = None, options: dict[str, Any] | None = None
) -> Plan:
    """The plan of a config file: a pre-training config with a `study` section. Paths of
    `study.evaluations` are relative to `study.root`, where there is one.

    Args:
        preset: a name in ``study.presets``, options merged into the config (e.g. 'gpu').
        options: more of them, merged last.

    Raises:
        FileNotFoundError: no such file. ValueError: keys that are missing or unknown.
    """
    cfg = cli.read_config(path)
    if "study" not in cfg:
        raise ValueError(f"{path} has no `study` section: see configs/study/scenes.py")
    _known(cfg.study, KEYS, "study")
    presets = dict(cfg.study.pop("presets", {}))
    if preset is not None:
        if preset not in presets:
            raise ValueError(f"{path} has no preset {preset!r}{nearest(preset, presets)}")
        cfg.merge_from_dict(presets[preset])
    cfg.merge_from_dict(options or {})
    study = cfg.pop("study")
    for key in ("arms", "seeds", "baseline", "evaluations"):
        if key not in study:
            raise ValueError(f"{path}: study.{key} is missing")
    arms = {name: _arm(name, dict(spec), study) for name, spec in study.arms.items()}
    for sweep in study.get("sweeps", []):
        for arm in _swept(dict(sweep), arms):
            arms[arm.name] = arm
    if study.baseline not in arms:
        raise ValueError(
            f"study.baseline={study.baseline!r} is no arm{nearest(study.baseline, arms)}"
        )
    for arm in arms.values():
        if arm.as_long_as is not None and arm.as_long_as not in arms:
            raise ValueError(f"study.arms.{arm.name}.as_long_as={arm.as_long_as!r} is no arm")
        if arm.twin_of is not None and arm.twin_of not in arms:
            raise ValueError(f"study.arms.{arm.name}.twin_of={arm.twin_of!r} is no arm")
    if cfg.get("param_scheduler"):
        raise ValueError(
            f"{path}: arms of a study have steps of their own, a param_scheduler would not follow "
            "them: use schedule.warmup"
        )
    primary = tuple(study.get("primary", ()))
    if len(primary) > MOST_PRIMARY:
        raise ValueError(f"study.primary: {len(primary)} outcomes, at most {MOST_PRIMARY} decide")
    root = Path(study.get("root", ""))
    evaluations = [
        {key: str(root / value) if key in PATHS else value for key, value in spec.items()}
        for spec in study.evaluations
    ]
    decide = primary, study.get("equivalence", BOUND)
    downstream = transfers.read(study.get("transfers", {}))
    return Plan(cfg, arms, study.baseline, evaluations, *decide, downstream)


def _arm(name: str, spec: dict[str, Any], study: dict[str, Any]) -> Arm:
    _known(spec, ARM_KEYS, f"study.arms.{name}")
    if "objective" not in spec:
        raise ValueError(f"study.arms.{name} has no objective")
    spec["objective"] = dict(spec["objective"])
    spec["seeds"] = tuple(spec.get("seeds", study["seeds"]))
    spec.setdefault("label", name)
    return Arm(name=name, **spec)


def _swept(sweep: dict[str, Any], arms: dict[str, Arm]) -> list[Arm]:
    """The arms of one sweep: one key of the recipe at several values, for some of the main arms.

    By default one seed and a third of the budget (`seeds`, `budget`).
    """
    _known(sweep, SWEEP_KEYS, "study.sweeps")
    key, short = sweep["key"], sweep["key"].rpartition(".")[2]
    found = []
    for name in sweep["arms"]:
        if name not in arms:
            raise ValueError(f"study.sweeps: no arm {name!r}{nearest(name, arms)}")
        for value in sweep["values"]:
            shown = f"{value:g}" if type(value) in (int, float) else str(value)
            found.append(
                replace(
                    arms[name],
                    name=f"{name}_{short}_{shown}",
                    options={**arms[name].options, key: value},
                    seeds=tuple(sweep.get("seeds", (0,))),
                    budget=sweep.get("budget", 1 / 3),
                    group="sweep",
                    label=f"{arms[name].label}, {short} {shown}",
                )
            )
    return found


def _flatten(value: Any, path: str, found: dict[str, Any]) -> None:
    """JSON's leaves by their dotted path."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            _flatten(inner, f"{path}.{key}", found)
    else:
        found[path] = value


def _known(section: dict[str, Any], keys: set[str], where: str) -> None:
    for key in section:
        if key not in keys:
            raise ValueError(f"{where}.{key} is unknown{nearest(key, keys)}")
