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

from sparc_pretrain import json_file
from sparc_pretrain.command import cli
from sparc_pretrain.command.cli import nearest
from sparc_pretrain.study.measure import Measure, Measures

KEYS = ("config", "options", "metrics")
DECIDE = ("model", "optim_wrapper", "param_scheduler", "train_cfg", "train_dataloader")
DECIDE += ("test_dataloader", "test_evaluator")  # what of a config decides the numbers


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
        config = cli.read_config(spec["config"]).to_dict()
        if "task" not in config:
            raise ValueError(
                f"study.transfers.{name}: {spec['config']} fine-tunes nothing: no task"
            )
        options, metrics = dict(spec.get("options", {})), tuple(spec.get("metrics", ()))
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
        ``NAME METRIC`` -> its number, shares in the place of percent.

    Raises:
        ValueError: one ended with another code than 0, or has not measured what is asked for.
    """
    found: Measures = {}
    for one in transfers:
        place = folder / one.name
        if not (place / "metrics.json").is_file():
            command = [*tool, one.config, "--backbone", str(folder / "train")]
            command += ["--work-dir", str(place), "--resume", "auto", *(["--amp"] if amp else [])]
            options = {"randomness.seed": seed, **one.options}
            command += ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]
            code = subprocess.run(command, check=False).returncode
            if code:
                raise ValueError(f"{one.name} of {folder.name} ended with code {code}")
        told = json_file.read_object(place / "metrics.json")
        numbers, about = told["metrics"], told["described"]
        for key in one.metrics or numbers:
            if key not in numbers:
                raise ValueError(
                    f"study.transfers.{one.name}: no metric {key!r}{nearest(key, numbers)}"
                )
            percent = about.get(key, {}).get("unit") == "percent"
            value = numbers[key] / 100 if percent else numbers[key]
            found[f"{one.name} {key.rpartition('/')[2]}"] = Measure.of([value])
    return found
