"""What a study says of its cells: values per seed, paired differences to the baseline with
intervals over seeds and test items, and decisions on the few outcomes that were named beforehand.

Seeds are few, and the variance of two or three of them is worth little on its own: it happens to be
tiny, and a difference of nothing looks certain. So it is pooled over the arms of a metric, which
gives arms x (seeds - 1) degrees of freedom; an arm whose own seeds differ more keeps its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.05  # of tests; intervals hold 1 - LEVEL
BOUND = 0.03  # differences inside it count as none, where a test of equivalence says so

Items = Mapping[int, np.ndarray]  # seed -> value per item [N]


@dataclass(frozen=True)
class SeedNoise:
    """The variance of one metric between seeds: `pooled` over arms with `freedom` degrees of it,
    and each arm's `own` with the degrees of freedom of that.
    """

    pooled: float
    freedom: int
    own: dict[str, tuple[float, int]]

    @classmethod
    def of(cls, arms: Mapping[str, Sequence[float]]) -> SeedNoise:
        """From one number per seed of each arm."""
        own = {
            name: (float(np.var(values, ddof=1)), len(values) - 1)
            for name, values in arms.items()
            if len(values) > 1
        }
        freedom = sum(degrees for _, degrees in own.values())
        summed = sum(variance * degrees for variance, degrees in own.values())
        return cls(summed / freedom if freedom else float("nan"), freedom, own)

    def of_difference(self, names: tuple[str, str]) -> tuple[float, float]:
        """The variance of the difference of one seed of each of two arms, and its degrees of
        freedom (Welch, Satterthwaite): of each arm the pooled variance, or its own where that is
        larger, so that arms whose seeds differ more are not told apart too soon.
        """
        owns = [self.own.get(name, (0.0, 0)) for name in names]
        larger = [own for own in owns if own[0] > self.pooled * (1 + 1e-9)]
        # the pooled one is one estimate, however many arms take it
        parts = [*larger, ((2 - len(larger)) * self.pooled, self.freedom)]
        variance = sum(part for part, _ in parts)
        below = sum(part**2 / freedom for part, freedom in parts)
        return variance, variance**2 / below if below else float("inf")


@dataclass(frozen=True)
class Difference:
    """A metric of an arm minus the baseline's, over the seeds that both have: its mean, the 95 %
    interval [low, high] over seeds and items (over items alone where no arm has two seeds; None for
    one number of one seed), the two-sided p (None: there is no seed to tell from noise), and the
    90 % interval's distance from zero, `reach`: below a bound the two are equivalent within it (two
    one-sided tests).
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    reach: float | None


def difference(
    arm: Items,
    baseline: Items,
    groups: Sequence[int],
    noise: SeedNoise,
    names: tuple[str, str],
) -> Difference | None:
    """The paired difference of two arms on the same items.

    The error adds in quadrature: that of the items, by whole groups (the captions or boxes of one
    image are not independent), and that of the seeds. Student's t, with
    Welch's and Satterthwaite's degrees of freedom (those of the items are taken as infinite).

    Args:
        arm, baseline: see Items. groups: [N], the sizes of runs of items of one image. noise: of
            this metric. names: of the two arms in it.

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
    delta_N = np.mean([arm[seed] - baseline[seed] for seed in shared], axis=0)
    mean, item_variance = float(delta_N.mean()), _item_variance(delta_N, groups)
    if not noise.freedom and len(groups) < 2:
        return Difference(mean, None, None, None, None)
    if not noise.freedom:
        half = float(stats.norm.ppf(1 - LEVEL / 2)) * item_variance**0.5
        return Difference(mean, mean - half, mean + half, None, None)
    of_seed, of_freedom = noise.of_difference(names)
    seed_variance = of_seed / len(shared)
    variance = item_variance + seed_variance
    freedom = of_freedom * (variance / seed_variance) ** 2 if seed_variance else np.inf
    if variance == 0:
        return Difference(mean, mean, mean, float(mean == 0), abs(mean))
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * variance**0.5
    p = 2 * float(stats.t.sf(abs(mean) / variance**0.5, freedom))
    reach = abs(mean) + float(stats.t.ppf(1 - LEVEL, freedom)) * variance**0.5
    return Difference(mean, mean - half, mean + half, p, reach)


def _item_variance(delta_N: np.ndarray, groups: Sequence[int]) -> float:
    """The variance of the mean over items in groups: that of a ratio of two sums over groups, the
    textbooks' linearised one (Cochran 1977, section 6.4), to which a bootstrap of groups converges.
    """
    count = len(groups)
    if count < 2:
        return 0.0
    owner = np.repeat(np.arange(count), groups)
    residual = np.bincount(owner, weights=delta_N - delta_N.mean(), minlength=count)
    return float(count / (count - 1) * (residual**2).sum() / len(delta_N) ** 2)


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


def table(
    records: list[dict[str, Any]],
    baseline: str,
    primary: Sequence[str] = (),
    twins: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The rows of a study: one per arm and metric.

    Args:
        records: the cells' JSON: ``arm``, ``seed``, ``items`` (metric -> value per item),
            ``groups`` (metric -> sizes of the runs of items of one image), ``cost`` (name ->
            number) and ``table`` (the group of the arm).
        primary: the outcomes named beforehand. twins: arm -> the arm it is held against in the
            place of the baseline (a shuffled control against its own method).

    Returns:
        dicts with arm, metric, kind, mean, seeds and values (one per seed); with a difference also
        against, difference, low, high, p, reach; and for primary outcomes holm, p corrected for all
        primary outcomes of all arms of the arm's table. Costs have no difference.
    """
    twins = twins or {}
    arms = list(dict.fromkeys(record["arm"] for record in records))
    metrics = list(dict.fromkeys(name for record in records for name in record["items"]))
    costs = list(dict.fromkeys(name for record in records for name in record["cost"]))
    tables = {record["arm"]: record["table"] for record in records}
    groups = {name: sizes for record in records for name, sizes in record["groups"].items()}
    rows = []
    for metric in metrics:
        items = {arm: _values(records, arm, metric) for arm in arms}
        items = {arm: values for arm, values in items.items() if values}
        per_seed = {
            arm: [float(v.mean()) for _, v in sorted(values.items())]
            for arm, values in items.items()
        }
        # a sweep has its own budget: it is neither compared nor pooled
        noise = SeedNoise.of({a: v for a, v in per_seed.items() if tables[a] != "sweep"})
        for arm, values in per_seed.items():
            row = {"arm": arm, "metric": metric, "kind": "quality", "values": values}
            row |= {"mean": float(np.mean(values)), "seeds": len(values)}
            against = twins.get(arm, baseline)
            if arm != against and tables[arm] != "sweep" and against in items:
                names = (arm, against)
                found = difference(items[arm], items[against], groups[metric], noise, names)
                if found is not None:
                    row |= {"against": against, "difference": found.mean, "low": found.low}
                    row |= {"high": found.high, "p": found.p, "reach": found.reach}
                    row |= {"table": tables[arm]}
            rows.append(row)
    for arm in arms:
        for cost in costs:
            numbers = [r["cost"][cost] for r in records if r["arm"] == arm and r["cost"].get(cost)]
            if numbers:
                row = {"arm": arm, "metric": cost, "kind": "cost", "values": numbers}
                rows.append(row | {"mean": float(np.mean(numbers)), "seeds": len(numbers)})
    decided = [r for r in rows if r["metric"] in primary and r.get("p") is not None]
    for group in {row["table"] for row in decided}:
        family = [row for row in decided if row["table"] == group]
        for row, corrected in zip(family, holm([r["p"] for r in family]), strict=True):
            row["holm"] = corrected
    return sorted(rows, key=lambda row: arms.index(row["arm"]))


def _values(records: list[dict[str, Any]], arm: str, metric: str) -> dict[int, np.ndarray]:
    return {
        r["seed"]: np.asarray(r["items"][metric], dtype=np.float64)
        for r in records
        if r["arm"] == arm and metric in r["items"]
    }
