"""How the report shows metrics, and which evaluations it puts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sparc_pretrain.metric import short
from sparc_pretrain.report.certainty import welch
from sparc_pretrain.report.records import Evaluation
from sparc_pretrain.report.starts import protocol_differences, starts_of

MINUS = "\u2212"
# unit of a metric -> factor, decimals (None: four digits in all), sign
UNITS = {
    "share": (100, 1, " %"),
    "percent": (1, 1, " %"),
    "score": (100, 1, ""),
    "rank": (1, 1, ""),
    "number": (1, None, ""),
}


@dataclass(frozen=True)
class Scale:
    """How a metric is shown: multiplied by `factor`, with `digits` decimals, then `unit`."""

    factor: float
    digits: int | None
    unit: str
    higher_is_better: bool | None


def label(name: str, evaluation: Evaluation) -> str:
    """The name of a metric in words that a table has room for."""
    metric = evaluation.metric(name)
    if metric.title and "*" not in metric.title:  # else of a control of a whole family
        return metric.title
    name = short(name)
    for prefix, words in (("bbox_", "box "), ("segm_", "mask ")):
        if name.startswith(prefix):
            return words + name.removeprefix(prefix)
    return name.replace("_", " ")


def scale(name: str, evaluation: Evaluation) -> Scale:
    """How a metric of `evaluation` is shown."""
    metric = evaluation.metric(name)
    return Scale(*UNITS[metric.unit], metric.higher_is_better)


def shown(name: str, value: float | None, evaluation: Evaluation) -> str:
    """A number with its unit; n/a for what could not be measured (COCO writes -1)."""
    if absent(name, value):
        return "n/a"
    how = scale(name, evaluation)
    return _number(value * how.factor, how) + how.unit


def chances(evaluation: Evaluation) -> list[tuple[str, float]]:
    """What the headline is without looking, as (name, value): from the protocol, or measured beside
    it as chance_*.
    """
    last = short(evaluation.headline or "").split("_")[-1]
    told = (evaluation.record.get("protocol") or {}).get(f"chance_{last}")
    found = [] if told is None else [("chance", told)]
    for name, value in evaluation.metrics.items():
        who = short(name).removeprefix("chance_").removesuffix(f"_{last}").replace("_", " ")
        if short(name) == f"chance_{who}_{last}".replace(" ", "_") and value is not None:
            found.append(({"centre": "the picture's centre"}.get(who, f"a {who}"), value))
    return found


def absent(name: str, value: float | None) -> bool:
    """Whether there is no number: null, or COCO's -1 for 'no such objects'."""
    return value is None or (short(name).startswith(("bbox_", "segm_")) and value < 0)


def _number(value: float, how: Scale) -> str:
    text = f"{value:,.4g}" if how.digits is None else f"{value:,.{how.digits}f}"
    return text.replace("-", MINUS)


@dataclass(frozen=True)
class Cell:
    """One start's number: `value` in shown units (None = not measured), and its text."""

    value: float | None
    text: str
    runs: int

    @property
    def plain(self) -> str:
        """Its text without the range of its runs."""
        return self.text.partition(" (")[0]

    @property
    def rest(self) -> str:
        """What of its text follows: 'mean of 3, 11.8 to 12.6'."""
        return self.text.partition(" (")[2].removesuffix(")")


@dataclass(frozen=True)
class Difference:
    """A start minus the baseline, in shown units. `better`: None = equal, or not to be judged;
    `sure`: whether it is outside its interval; `n`: what that is of, in words.
    """

    text: str
    better: bool | None
    sure: bool = False
    n: str = ""

    @property
    def colour(self) -> str:
        """'up' or 'down' where it is judged and outside its interval, else nothing."""
        return ("up" if self.better else "down") if self.sure and self.better is not None else ""


@dataclass
class Comparison:
    """Evaluations of one setting from different starts. The `baseline` is the untrained start where
    there is one, else the first; `starts` ends with it.
    """

    kind: str
    place: str
    config: str
    data: str
    starts: dict[str, list[Evaluation]]
    remark: str = ""

    @property
    def baseline(self) -> str:
        return next(reversed(self.starts))

    @property
    def columns(self) -> list[str]:
        """The starts as every table and chart has them: the baseline first."""
        return [self.baseline, *(start for start in self.starts if start != self.baseline)]

    @property
    def config_name(self) -> str:
        """'flickr8k/det' of 'configs/flickr8k/det.py'."""
        return self.config.removeprefix("configs/").removesuffix(".py")

    @property
    def one_run_each(self) -> bool:
        return all(len(runs) == 1 for runs in self.starts.values())

    def names(self) -> list[str]:
        """The metrics that the baseline and at least one other start have, the headline first; no
        ends of intervals, and no controls of a metric that is there (see `elsewhere`).
        """
        *others, base = self.starts.values()
        told = base[0].metrics
        names = [
            name
            for name in told
            if not name.endswith(("_low", "_high"))
            and name.removesuffix("_elsewhere") not in told.keys() - {name}
            and any(name in run.metrics for runs in others for run in runs)
        ]
        return sorted(names, key=lambda name: name != self.headline())

    def elsewhere(self, start: str, name: str) -> str:
        """What the same captions or answers of `start` get on another image, '' where that was not
        measured.
        """
        cell = self.cell(start, f"{name}_elsewhere")
        return "" if cell is None or cell.value is None else cell.plain

    def headline(self) -> str | None:
        """The metric that stands for this comparison."""
        return next(iter(self.starts.values()))[0].headline

    def cell(self, start: str, name: str) -> Cell | None:
        """The mean over the runs of `start`; None where it has no such evaluation."""
        runs = [run for run in self.starts.get(start, []) if name in run.metrics]
        if not runs:
            return None
        values = [run.metrics[name] for run in runs if not absent(name, run.metrics[name])]
        if not values:
            return Cell(None, "n/a", len(runs))
        how = scale(name, runs[0])
        text = _number(fmean(values) * how.factor, how) + how.unit
        ends = [runs[0].metrics.get(name + end) for end in ("_low", "_high")]
        if len(values) == 1 and None not in ends:
            text += f" ({' to '.join(_number(end * how.factor, how) for end in ends)})"
        if len(values) > 1:
            low, high = (_number(v * how.factor, how) for v in (min(values), max(values)))
            text += f" (mean of {len(values)}, {low} to {high})"
        return Cell(fmean(values) * how.factor, text, len(values))

    def difference(self, start: str, name: str) -> Difference | None:
        """`start` minus the baseline; None where one of them is missing."""
        first, second = self.cell(start, name), self.cell(self.baseline, name)
        if first is None or second is None or first.value is None or second.value is None:
            return None
        how = scale(name, self.starts[self.baseline][0])
        gap = first.value - second.value
        text = _number(abs(gap), how)
        if float(text.replace(",", "")) == 0:
            return Difference("0" if how.digits is None else text, None)
        unit = " points" if how.unit == " %" else ""
        better = None if how.higher_is_better is None else (gap > 0) == how.higher_is_better
        sure, n = self._certainty(start, name)
        return Difference(f"{'+' if gap > 0 else MINUS}{text}{unit}", better, sure, n)

    def _certainty(self, start: str, name: str) -> tuple[bool, str]:
        """Whether a difference is outside its interval, and what it is of."""
        sides = [
            [run for run in self.starts[one] if not absent(name, run.metrics.get(name))]
            for one in (start, self.baseline)
        ]
        values = [[run.metrics[name] for run in runs] for runs in sides]
        counts = " and ".join(str(len(runs)) for runs in sides)
        if (ends := welch(*values)) is not None:
            return ends[0] > 0 or ends[1] < 0, f"n = {counts} runs"
        # an interval over the items of one run says nothing of another seed: it decides nothing
        one = len(sides[0]) == len(sides[1]) == 1
        return False, "n = 1 run each" if one else f"n = {counts} runs"


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """The starts of every setting (kind, config, data) that has more than one.

    Evaluations of one backbone are runs of one start and are averaged, those that are one run
    counted once; different backbones of one objective are starts of their own, told apart by
    their run.
    """
    settings: dict[tuple[str, str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        settings.setdefault(evaluation.setting, []).append(evaluation)
    found = []
    for (kind, config, data), group in settings.items():
        starts = starts_of(group)
        if len(starts) > 1:
            remark = "; ".join(protocol_differences(starts))
            found.append(
                Comparison(
                    kind,
                    group[0].place,
                    config,
                    data,
                    starts,
                    f"not alike: {remark}" if remark else "",
                )
            )
    return found
