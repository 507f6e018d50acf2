"""The sections of a pre-training config that are ours alone, with their keys, defaults and limits,
and how what they say goes together with what a config says in mmengine's own words.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from mmengine.config import Config

from sparc_pretrain.command.cli import nearest

Section = TypeVar("Section")
FROM = "completed_from"  # where a completed config says what of it was derived


@dataclass(frozen=True)
class Tokenizer:
    """`tokenizer`: ``train``, how many tokens to learn from the captions, or ``load``, one that
    exists (see `recipe.make_tokenizer`); ``mask``: with a mask token, which objectives that need
    one get anyway.
    """

    train: int | None = None
    load: str | None = None
    mask: bool = False


@dataclass(frozen=True)
class Data:
    """`data`: what is trained on, and how it reaches the model.

    sources: shards, see `recipe.check_sources`. global_batch: pairs of a step, of all processes.
    image_size: pixels. max_tokens: of a caption. mode: 'alternate' or 'mixed', and
    shards_per_block, shards whose samples are mixed, default by their size: see PairSampler.
    workers: loader processes per training process. timeout: seconds without a batch after which
    they count as stuck. dataset: further arguments of PairDataset. fields: what samples carry
    beside image and caption, see `data.fields.Fields`. held_out: `sources` that are not trained on,
    `interval` in steps between two looks at up to `pairs` (1024) of them, see
    `held_out.HeldOutLoop`; default none.
    """

    sources: Any
    global_batch: int
    image_size: int
    max_tokens: int
    mode: str = "alternate"
    shards_per_block: int | None = None
    workers: int = 0
    timeout: int = 600
    dataset: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, Any] | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _whole("data", self, "global_batch", "image_size", "max_tokens", "workers", "timeout")
        if self.global_batch < 1:
            raise ValueError(f"data.global_batch={self.global_batch} must be 1 or more")
        if self.shards_per_block is not None:
            _whole("data", self, "shards_per_block")
        if self.mode not in ("alternate", "mixed"):
            raise ValueError(f"data.mode={self.mode!r}: use 'alternate' or 'mixed'")
        for name in ("dataset", "fields"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"data.{name}={getattr(self, name)!r} must be a dict")
        if not isinstance(self.held_out, dict | None):
            raise ValueError(f"data.held_out={self.held_out!r} must be a dict")


@dataclass(frozen=True)
class Schedule:
    """`schedule`: ``steps`` of training, the rate rising in the first ``warmup``, then of a
    ``shape``: falling as a cosine to 0 at the end, constant, or falling as 1/sqrt; the last two may
    have a ``cool_down`` to 0 in the last steps (see `schedules`). ``warmup=None`` when the config
    has a ``param_scheduler`` of its own.
    """

    steps: int
    warmup: int | None
    shape: str = "cosine"
    cool_down: int = 0

    def __post_init__(self) -> None:
        _whole(
            "schedule", self, "steps", "cool_down", *(() if self.warmup is None else ("warmup",))
        )
        if self.warmup is not None and self.warmup >= self.steps:
            raise ValueError(
                f"schedule.warmup={self.warmup} must be below schedule.steps={self.steps}"
            )


def read(cfg: Config, name: str, kind: type[Section]) -> Section:
    """The section `name` of a config.

    Raises:
        ValueError: it is missing, lacks a key, has one that nobody reads, or a value that cannot
            be.
    """
    section = cfg.get(name)
    if not isinstance(section, dict):
        raise ValueError(
            f"the config has no `{name}`: pre-training needs one like configs/sparc.py"
        )
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    for key in section:
        if key not in known:
            raise ValueError(f"config key {name}.{key} is unknown{nearest(key, known)}")
    for key, needed in known.items():
        if needed and key not in section:
            raise ValueError(f"the config has no {name}.{key}, see configs/sparc.py")
    return kind(**section)


def derive(cfg: Config, derived: dict[str, dict], defaults: dict[str, dict]) -> None:
    """Put what follows from our sections into the config, under mmengine's names, in place; what it
    says there itself stays.

    Args:
        derived: by section; a config that says otherwise contradicts itself. defaults: the same,
            for what it may say otherwise.

    Raises:
        ValueError: it does, with the key and what it follows from.
    """
    before = cfg.get(FROM) or {}  # a config that was completed and dumped is completed anew
    for section, values in derived.items():
        given = _own(cfg.get(section) or {}, before.get(section) or {})
        standing = _merged(defaults.get(section, {}), given)
        cfg[section] = _joined(standing, values, section)
    cfg[FROM] = {
        section: _merged(defaults.get(section, {}), values) for section, values in derived.items()
    }


# What sets a derived key, where that is not its own name.
SET_BY = {
    "train_dataloader.batch_size": "data.global_batch",
    "train_dataloader.num_workers": "data.workers",
    "train_dataloader.timeout": "data.timeout",
    "train_dataloader.sampler.mode": "data.mode",
    "train_dataloader.sampler.global_batch": "data.global_batch",
    "train_dataloader.sampler.shards_per_block": "data.shards_per_block",
    "train_dataloader.sampler.seed": "randomness.seed",
    "train_dataloader.dataset.seed": "randomness.seed",
    "train_dataloader.dataset.tokenizer": "tokenizer",
    "train_cfg.max_iters": "schedule.steps",
}


def _own(given: dict, derived: dict) -> dict:
    """`given` without what an earlier completion put there."""
    kept = {}
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(derived.get(key), dict):
            value = _own(value, derived[key])
            if value:
                kept[key] = value
        elif key not in derived or derived[key] != value:
            kept[key] = value
    return kept


def _merged(below: dict, above: dict) -> dict:
    """Both, `above` where they differ."""
    both = {**below}
    for key, value in above.items():
        inner = isinstance(value, dict) and isinstance(below.get(key), dict)
        both[key] = _merged(below[key], value) if inner else value
    return both


def _joined(given: dict, derived: dict, path: str) -> dict:
    """Both, which must not differ. Raises ValueError."""
    both = {**given}
    for key, value in derived.items():
        where, said = f"{path}.{key}", given.get(key, value)
        if isinstance(value, dict) and isinstance(said, dict):
            both[key] = _joined(said, value, where) if key in given else value
        elif said != value:
            inside = where.removeprefix("train_dataloader.dataset.")
            follows = SET_BY.get(where, f"data.{inside}" if inside != where else None)
            cause = f"follows from {follows}" if follows else "is set by pre-training"
            raise ValueError(f"config key {where}={said!r} {cause} ({value!r}): leave it out")
        else:
            both[key] = value
    return both


def _whole(name: str, section: Any, *keys: str) -> None:
    for key in keys:
        value = getattr(section, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"config key {name}.{key}={value!r} must be a whole number, 0 or more")
