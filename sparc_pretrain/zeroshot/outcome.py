"""What a zero-shot task gives back: numbers, how they were made, and the items behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sparc_pretrain.metric import Metric


@dataclass(frozen=True)
class Outcome:
    """`metrics` and `protocol` go to metrics.json.

    `items` are a metric's values per item, whose mean is the metric of that name, and `owners` the
    image row of each item: what tests of significance resample. `extra` are further JSON files,
    name -> content. `declared` says what the metrics are. `apart` are values of other items than
    `items`, which no file holds: see the task. `pictures`, name -> [H,W,3] uint8, are written.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    items: dict[str, list[float]] = field(default_factory=dict)
    owners: list[int] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    declared: tuple[Metric, ...] = ()
    apart: dict[str, list] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
