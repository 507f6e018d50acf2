"""What a number of an evaluation is: declared once, beside the code that computes it, and written
into every metrics.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

# share: 0..1, shown in percent. percent: 0..100. score: of captions, shown times 100 as papers do.
Unit = Literal["share", "percent", "score", "rank", "number"]


@dataclass(frozen=True)
class Metric:
    """A metric of an evaluation.

    Args:
        name: its name, or with `*` that of a family ('chance_*').
        unit: how the number is to be read and shown.
        higher_is_better: None = neither, as for controls, chance and counts.
        headline: stands for its evaluation where there is room for one.
        words: one line that explains it. title: how it is called in a table; empty = its name.
    """

    name: str
    unit: Unit = "share"
    higher_is_better: bool | None = True
    headline: bool = False
    words: str = ""
    title: str = ""


# What every task may have beside its metrics: they are not judged, whatever their names.
CONTROLS = (
    Metric("*_low", higher_is_better=None, words="lower end of the interval"),
    Metric("*_high", higher_is_better=None, words="upper end of the interval"),
    Metric("chance_*", higher_is_better=None, words="by chance"),
    Metric("*_elsewhere", higher_is_better=None, words="the same of another image: a control"),
)


def short(name: str) -> str:
    """'bbox_AP50' of 'coco/bbox_AP50'."""
    return name.rpartition("/")[2]


def find(name: str, declared: Iterable[Metric]) -> Metric | None:
    """The declaration of a metric, without its prefix: by its name, else the first family that it
    is of; controls go before families, with the unit of what they are a control of.
    """
    name, declared = short(name), tuple(declared)
    for metric in declared:
        if metric.name == name:
            return metric
    for control in CONTROLS:
        if fnmatchcase(name, control.name):
            of = find(name.replace(control.name.strip("*"), "", 1), declared)
            return control if of is None else _control(control, of)
    return next((m for m in declared if fnmatchcase(name, m.name)), None)


def describe(names: Iterable[str], declared: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """name -> what is declared of it, for metrics.json; nothing for a name nobody declared."""
    declared = tuple(declared)
    found = {name: find(name, declared) for name in names}
    return {n: {**asdict(m), "name": short(n)} for n, m in found.items() if m is not None}


def _control(control: Metric, of: Metric) -> Metric:
    title = f"{of.title or of.name}, {control.words.partition(':')[0]}"
    return Metric(control.name, of.unit, None, False, control.words, title)
