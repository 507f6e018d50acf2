"""What a study says of its cells: means and standard errors over seeds, and paired differences to
the baseline: bootstrap intervals over the test items, intervals over items and seeds, and p values
corrected for how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.05  # of tests; intervals hold 1 - LEVEL


@dataclass(frozen=True)
class Summary:
    """One metric of one arm: `mean` and standard error `error` over `seeds` (None: one seed)."""

    mean: float
    error: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """A metric of an arm minus the baseline's: the mean over the seeds both have, its standard
    error over these seeds (None: one seed), the 95 % bootstrap interval [low, high] over test
    items, and the 95 % interval [both_low, both_high] and two-sided p over items and seeds.
    """

    mean: float
    error: float | None
    low: float
    high: float
    both_low: float
    both_high: float
    p: float

    @property
    def noise(self) -> bool:
        """True when the difference is not told from zero by the items, or not by items and seeds
        (with one seed only the items can tell).
        """
        return self.low <= 0 <= self.high or self.p >= LEVEL


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard error of one number per seed."""
    x = np.asarray(values, dtype=np.float64)
    error = float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else None
    return Summary(float(x.mean()), error, len(x))


def over_both(
    mean: float, item_error: float, seed_error: float | None, seeds: int
) -> tuple[float, float, float]:
    """The 95 % interval and the two-sided p of a mean over items and seeds: both errors add in
    quadrature, with Student's t at Welch's and Satterthwaite's degrees of freedom (those of the
    items are taken as infinite).

    Returns:
        low, high, p. Without any error the interval is the mean; p is then 0, of a zero mean 1.
    """
    variance = item_error**2 + (seed_error or 0.0) ** 2
    if variance == 0:
        return mean, mean, float(mean == 0)
    freedom = (seeds - 1) * variance**2 / seed_error**4 if seed_error else np.inf
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * variance**0.5
    p = 2 * float(stats.t.sf(abs(mean) / variance**0.5, freedom))
    return mean - half, mean + half, p


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the chance that even one of those below a
    level is false stays below it, however they depend on each other.
    """
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    found, largest = [0.0] * count, 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (count - place) * p_values[i]))
        found[i] = largest
    return found


def difference(
    arm: dict[int, np.ndarray],
    baseline: dict[int, np.ndarray],
    groups: Sequence[int],
    resamples: int = RESAMPLES,
) -> Difference | None:
    """The paired difference of two arms on the same items.

    Whole groups (the captions of one image, the boxes of one image) are drawn with replacement:
    items of one image are not independent.

    Args:
        arm, baseline: seed -> value per item [N]. groups: [N], the image of each item.

    Returns:
        None when the arms share no seed.

    Raises:
        ValueError: the arms were not measured on the same number of items.
    """
    shared = sorted(arm.keys() & baseline.keys())
    if not shared:
        return None
    sizes = {len(values) for seed in shared for values in (arm[seed], baseline[seed])}
    if sizes != {int(sum(groups))}:
        raise ValueError(f"paired values of {sorted(sizes)} items, {sum(groups)} expected")
    delta_SN = np.stack([arm[seed] - baseline[seed] for seed in shared])
    delta_N = delta_SN.mean(axis=0)
    owner = np.repeat(np.arange(len(groups)), groups)
    sums = np.bincount(owner, weights=delta_N)
    counts = np.bincount(owner).astype(np.float64)
    # The weights of a resample are multinomial counts of the groups; a fixed seed: the same
    # cells give the same page.
    weights = np.random.default_rng(0).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=resamples
    )
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, (0.025, 0.975))
    per_seed = summary(delta_SN.mean(axis=1))
    mean = float(delta_N.mean())
    both = over_both(mean, float(means.std()), per_seed.error, len(shared))
    return Difference(mean, per_seed.error, float(low), float(high), *both)


def table(records: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """The rows of a study: one per arm and metric.

    Args:
        records: the cells' JSON: ``arm``, ``seed``, ``items`` (metric -> value per item),
            ``groups`` (metric -> sizes of the runs of items of one image), ``cost`` (name ->
            number) and ``table`` (the group of the arm).

    Returns:
        dicts with arm, metric, mean, error, seeds and, but for the baseline, difference,
        difference_error, low, high, noise, both_low, both_high, p (None without a shared seed)
        and holm, p corrected for all differences of the arm's group. Costs have no difference.
    """
    arms = list(dict.fromkeys(record["arm"] for record in records))
    metrics = list(dict.fromkeys(name for record in records for name in record["items"]))
    costs = list(dict.fromkeys(name for record in records for name in record["cost"]))
    rows = []
    for arm in arms:
        cells = [record for record in records if record["arm"] == arm]
        for metric in metrics:
            values = _values(records, arm, metric)
            if not values:
                continue
            row = {"arm": arm, "metric": metric, "kind": "quality"}
            row.update(vars(summary([v.mean() for v in values.values()])))
            # a sweep has its own budget: it is not compared with the baseline
            if arm != baseline and cells[0]["table"] != "sweep":
                groups = next(r["groups"][metric] for r in cells if metric in r["groups"])
                paired = difference(values, _values(records, baseline, metric), groups)
                row.update(_columns(paired), table=cells[0]["table"])
            rows.append(row)
        for cost in costs:
            numbers = [r["cost"][cost] for r in cells if r["cost"].get(cost) is not None]
            if numbers:
                row = {"arm": arm, "metric": cost, "kind": "cost"}
                rows.append({**row, **vars(summary(numbers))})
    for group in {row["table"] for row in rows if row.get("p") is not None}:
        family = [r for r in rows if r.get("table") == group and r["p"] is not None]
        for row, corrected in zip(family, holm([r["p"] for r in family]), strict=True):
            row["holm"] = corrected
    return rows


def _values(records: list[dict[str, Any]], arm: str, metric: str) -> dict[int, np.ndarray]:
    return {
        r["seed"]: np.asarray(r["items"][metric], dtype=np.float64)
        for r in records
        if r["arm"] == arm and metric in r["items"]
    }


def _columns(paired: Difference | None) -> dict[str, Any]:
    names = ("low", "high", "noise", "both_low", "both_high", "p")
    if paired is None:
        return dict.fromkeys(("difference", "difference_error", *names))
    found = {"difference": paired.mean, "difference_error": paired.error}
    return found | {name: getattr(paired, name) for name in names}
