"""The files of a study: one small JSON per finished cell, and what is made of them."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparc_pretrain import json_file, metrics_file
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.study import page, statistics
from sparc_pretrain.study.measure import Measures
from sparc_pretrain.study.plan import Cell, Plan
from sparc_pretrain.study.protocol import OLDER, UNRECORDED

Json = dict[str, Any]


def write_record(
    work: Path, cell: Cell, measures: Measures, cost: dict[str, float], how: Json
) -> None:
    """A finished cell: its metrics, their values per item, its cost, where and with what it ran.

    Args:
        how: how it was trained and read: ``recipe`` (`Plan.recipe_of`), ``precision``,
            ``patches_read_as``; of what it was fine-tuned for, ``transfers``.
    """
    record = {
        "arm": cell.arm.name,
        "seed": cell.seed,
        "table": cell.arm.group,
        "metrics": {k: round(float(np.mean(m.items)), 5) for k, m in measures.items()},
        "cost": cost,
        "machine": machine(),
        "versions": {k: v for k, v in metrics_file.versions().items() if k in ("torch", "timm")},
        "date": now(),
        "objective": dict(cell.arm.objective),
        **how,
        "items": {k: _pack(m.items) for k, m in measures.items()},
        "groups": {k: m.groups for k, m in measures.items()},
        "blind": {k: m.blind for k, m in measures.items() if m.blind},
    }
    _write_json(record_of(work, cell.name), record)


def publish(study: Plan, work: Path, name: str) -> None:
    """study.json, study.csv, study.html and study.md of the cells that are there.

    Raises:
        ValueError: there are none, or one is of another recipe.
    """
    cells = study.cells()
    done = finished(study, work)
    if not done:
        raise ValueError(f"{work} holds no finished cell")
    rows = statistics.table(done, study.baseline, study.primary, study.twins)
    machines = sorted({record["machine"] for record in done})
    versions = sorted({" ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in done})
    dates = sorted(record["date"][:10] for record in done)  # of the cells, not of this page
    found = {
        "name": name,
        "baseline": study.baseline,
        "cells": len(cells),
        "cells_done": len(done),
        "machine": "; ".join(machines),
        "precision": sorted({record.get("precision", UNRECORDED) for record in done}),
        "without_recipe": sum("recipe" not in record for record in done),
        "versions": "; ".join(versions),
        "date": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
        "arms": {arm.name: asdict(arm) for arm in study.arms.values()},
        "evaluations": study.evaluations,
        "items": _sizes(done),
        "primary": list(study.primary),
        "equivalence": study.equivalence,
        "blind": {k: v for record in done for k, v in record.get("blind", {}).items()},
        "patches_read_as": _readings(study, done),
        "rows": rows,
    }
    _write_json(work / "study.json", found)
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({**row, "values": " ".join(map(str, row["values"]))} for row in rows)
    _write(work / "study.csv", text.getvalue().encode())
    _write(work / "study.html", page.render(study, found).encode())
    _write(work / "study.md", page.markdown(study, found).encode())


def finished(study: Plan, work: Path) -> list[Json]:
    """The records that are there.

    Raises:
        ValueError: one is of another recipe than the study's (other steps, data, towers ...).
    """
    done = []
    for cell in study.cells():
        if not record_of(work, cell.name).exists():
            continue
        record = read_record(work, cell.name)
        planned = json.loads(json.dumps(study.recipe_of(cell)))
        trained = record.get("recipe", planned)  # older records have none: the page says so
        for key in sorted(planned.keys() | trained.keys()):
            if planned.get(key) != trained.get(key):
                raise ValueError(
                    f"{record_of(work, cell.name)} was trained with {key}={trained.get(key)}, the "
                    f"study has {planned.get(key)}: give it a --work-dir of its own, or remove the "
                    "cell to train it again"
                )
        tuned = record.get("transfers", {})
        for one in study.transfers:
            if one.name in tuned and not one.is_of(tuned[one.name]):
                raise ValueError(
                    f"{record_of(work, cell.name)} was fine-tuned with another study.transfers."
                    f"{one.name}: give the study a --work-dir of its own, or remove the cell"
                )
        done.append(record)
    return done


def _sizes(done: list[Json]) -> dict[str, list[int]]:
    """metric -> number of test items, and of the images they are of."""
    groups = {metric: sizes for record in done for metric, sizes in record["groups"].items()}
    return {metric: [sum(sizes), len(sizes)] for metric, sizes in groups.items()}


def _readings(study: Plan, done: list[Json]) -> dict[str, list[str]]:
    """arm -> how its cells' patches were read; two ways are a mixture that has to be seen."""
    found: dict[str, list[str]] = {}
    for record in done:
        if study.arms[record["arm"]].group != "sweep":
            ways = found.setdefault(record["arm"], [])
            how = record.get("patches_read_as", OLDER)
            ways += [how] if how not in ways else []
    return found


def record_of(work: Path, name: str) -> Path:
    """Where a cell's record is."""
    return work / "cells" / f"{name}.json"


def read_record(work: Path, name: str) -> Json:
    """A cell's record, its items as lists of numbers."""
    record = json_file.read_object(record_of(work, name), most=None)
    for metric, items in record.get("items", {}).items():
        record["items"][metric] = [float(value) for value in items]
    return record


def _pack(items: list[float]) -> str | list[float]:
    """Hits and misses as a text of ones and zeros: a cell stays small enough to be committed."""
    if set(items) <= {0.0, 1.0}:
        return "".join(f"{v:.0f}" for v in items)
    return [int(v) if v == int(v) else v for v in items]


def log_of(work: Path, cell: Cell) -> Path:
    """Where a cell's output goes."""
    return work / "logs" / f"{cell.name}.log"


def _write_json(path: Path, value: Json) -> None:
    """Whole or not at all."""
    _write(path, json.dumps(value, separators=(",", ":"), default=str).encode())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(data))


def machine() -> str:
    """The device that trains, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores {names[0] if names else platform.processor()}"


def now() -> str:
    """The date, to the minute."""
    return datetime.now(UTC).isoformat(timespec="minutes")
