"""What a study's run folders are worth downstream: each cell's is the backbone of the same
fine-tunings, and their numbers are metrics of the cell.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparc_pretrain import json_file, run_folder
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.command import cli
from sparc_pretrain.command.cli import nearest
from sparc_pretrain.report.numbers import absent
from sparc_pretrain.study.measure import Measure, Measures

KEYS = ("config", "options", "metrics")
# What of a config decides the numbers: those of its validations, tools/train.py does not test.
DECIDE = ("model", "data_preprocessor", "load_from", "custom_hooks", "optim_wrapper")
DECIDE += ("param_scheduler", "train_cfg", "train_dataloader")
DECIDE += ("val_cfg", "val_dataloader", "val_evaluator")
MARK = "fine_tuned.json"  # of what a work dir is, written before the training, and whether it ended


@dataclass(frozen=True)
class Transfer:
    """A fine-tuning: `config` of tools/train.py with `options` (``{"train_cfg.max_iters": 280}``),
    and those of its metrics.json that are kept, all of them without `metrics`. content: a digest of
    what in that config decides them.
    """

    name: str
    config: str
    options: dict[str, Any]
    metrics: tuple[str, ...] = ()
    content: str = ""

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides its numbers, for the cell's record."""
        return {"config": self.config, **self.options, "content": self.content}

    def is_of(self, recipe: dict[str, Any]) -> bool:
        """Whether a cell's record tells of this one; an older record tells of no content."""
        return {"content": self.content, **recipe} == json.loads(json.dumps(self.recipe))


def read(section: dict[str, Any]) -> list[Transfer]:
    """Those of `study.transfers`, ``{name: dict(config=..., options={}, metrics=())}``.

    Raises ValueError for other keys or a config without a `task`, FileNotFoundError for none.
    """
    found = []
    for name, spec in section.items():
        for key in spec:
            if key not in KEYS:
                raise ValueError(f"study.transfers.{name}.{key} is unknown{nearest(key, KEYS)}")
        if "config" not in spec:
            raise ValueError(f"study.transfers.{name} has no config")
        config = cli.read_config(spec["config"])
        if "task" not in config:
            raise ValueError(
                f"study.transfers.{name}: {spec['config']} fine-tunes nothing: no task"
            )
        options, metrics = dict(spec.get("options", {})), tuple(spec.get("metrics", ()))
        config.merge_from_dict(options)
        config = config.to_dict()
        text = json.dumps({key: config.get(key) for key in DECIDE}, sort_keys=True, default=str)
        content = hashlib.sha256(text.encode()).hexdigest()[:16]
        found.append(Transfer(name, str(spec["config"]), options, metrics, content))
    return found


def measure(
    transfers: Sequence[Transfer], folder: Path, seed: int, tool: Sequence[str], amp: bool
) -> Measures:
    """Fine-tune `folder`/train once for each, into `folder`/NAME, and read what was measured; what
    was cut off goes on, what is done is only read.

    Args:
        seed: of the fine-tunings.
        tool: the command that is tools/train.py.
        amp: with bfloat16.

    Returns:
        ``NAME METRIC`` -> its number, shares in the place of percent; without what has none (null,
        COCO's -1).

    Raises:
        ValueError: one ended with another code than 0, has not measured what is asked for, or was
            begun as another one.
    """
    found: Measures = {}
    for one in transfers:
        place = folder / one.name
        backbone = run_folder.open_run(folder / "train").sha256
        what = json.loads(
            json.dumps(dict(one.recipe, seed=seed, amp=amp, backbone=backbone, ended=False))
        )
        before = json_file.read_object(place / MARK) if (place / MARK).is_file() else what
        if {**before, "ended": False} != what:
            raise ValueError(
                f"{place} is of another fine-tuning or backbone: remove it to fine-tune anew"
            )
        if not (before["ended"] and (place / "metrics.json").is_file()):
            place.mkdir(exist_ok=True)
            _mark(place, what)
            _train(one, place, folder, seed, tool, amp)
            _mark(place, {**what, "ended": True})
        told = json_file.read_object(place / "metrics.json")
        numbers, about = told["metrics"], told["described"]
        for key in one.metrics or numbers:
            if key not in numbers:
                raise ValueError(
                    f"study.transfers.{one.name}: no metric {key!r}{nearest(key, numbers)}"
                )
            if absent(key, numbers[key]):
                continue
            percent = about.get(key, {}).get("unit") == "percent"
            value = numbers[key] / 100 if percent else numbers[key]
            found[f"{one.name} {key.rpartition('/')[2]}"] = Measure.of([value])
    return found


def _mark(place: Path, what: dict[str, Any]) -> None:
    atomic_write(place / MARK, lambda file: file.write(json.dumps(what).encode()))


def _train(
    one: Transfer, place: Path, folder: Path, seed: int, tool: Sequence[str], amp: bool
) -> None:
    command = [*tool, one.config, "--backbone", str(folder / "train")]
    command += ["--work-dir", str(place), "--resume", "auto", *(["--amp"] if amp else [])]
    options = {"randomness.seed": seed, **one.options}
    command += ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ValueError(f"{one.name} of {folder.name} ended with code {code}")
