"""metrics.json: what every evaluation leaves behind, with enough beside the numbers to know what
they are of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparc_pretrain import __version__
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.metric import Metric, describe
from sparc_pretrain.run_folder import RunFolder

PACKAGES = ("torch", "torchvision", "timm", "transformers", "numpy", "hotcoco", "pycocoevalcap")
PACKAGES += ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation")


def ancestry(run: RunFolder | None) -> dict[str, Any] | None:
    """Which pre-training a backbone comes from; None = random initialisation."""
    if run is None:
        return None
    told = run.config.get("objective") or {}
    seen = run.config.get("samples_seen")
    line = {"run": run.name, "sha256": run.sha256, "objective": told.get("type")}
    if told.get("image_contrast"):  # of one name, other losses
        line |= {key: told[key] for key in ("image_contrast", "contrast_of") if key in told}
    return {**line, "samples_seen": seen}


def write_metrics(
    path: str | Path,
    task: str,
    metrics: dict[str, float],
    protocol: dict[str, Any],
    backbone: dict[str, Any] | None,
    config: str | None = None,
    checkpoint: str | None = None,
    data: str | None = None,
    seconds: float | None = None,
    declared: Sequence[Metric] = (),
    per_class: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Write one evaluation's record to `path` (atomically) and return it.

    Args:
        task: e.g. 'retrieval', 'detection'. metrics: name -> number; NaN becomes null.
        protocol: how the numbers were made. backbone: see `ancestry`. data: what was evaluated on.
        declared: what the metrics are; written beside them as `described`.
        per_class: metric -> class -> a share (0 to 1), where the task has classes.
    """
    numbers = {k: _number(v) for k, v in metrics.items() if _is_number(v)}
    record = {
        "task": task,
        "metrics": numbers,
        "described": describe(numbers, declared),
        "protocol": protocol,
        "backbone": backbone,
        "config": config,
        "checkpoint": checkpoint,
        "data": data,
        "seconds": seconds,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if per_class:
        record["per_class"] = {
            name: {key: _number(v) for key, v in values.items()}
            for name, values in per_class.items()
        }
    text = json.dumps(record, indent=1, default=str).encode()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(text))
    return record


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _number(value: Any) -> float | None:
    return None if math.isnan(float(value)) else float(value)


def versions() -> dict[str, str]:
    """Versions of this package and of those that numbers depend on."""
    found = {"sparc_pretrain": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
