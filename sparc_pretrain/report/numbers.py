"""How the report shows metrics, and which evaluations it puts side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparc_pretrain.report.records import RANDOM, Evaluation

HEADLINE = {  # the number that stands for a kind of evaluation: the first of these that is there
    "retrieval": ("t2i_R@5", "t2i_R@1"),
    "detection": ("bbox_AP", "bbox_mAP"),
    "segmentation": ("mIoU",),
    "captioning": ("CIDEr", "accuracy"),
}
NAMES = {
    "i2t_median_rank": "image→text median rank",
    "t2i_median_rank": "text→image median rank",
}
CAPTION_SCORES = ("BLEU", "ROUGE", "CIDEr")
CAPTION_SHARES = ("K-Precision", "CHAIR", "object-recall", "scene-", "accuracy", "exact-match")
PER_CAPTION = ("scene-statements", "scene-stray")  # counts, not shares
MINUS = "\u2212"
MMSEG_PERCENT = ("aAcc", "mIoU", "mAcc", "mDice", "mFscore", "mPrecision", "mRecall")


@dataclass(frozen=True)
class Scale:
    """How a metric is shown: multiplied by `factor`, with `digits` decimals, then `unit`."""

    factor: float
    digits: int | None
    unit: str
    higher_is_better: bool = True


def short(name: str) -> str:
    """'bbox_AP50' of 'coco/bbox_AP50'."""
    return name.rpartition("/")[2]


def label(name: str) -> str:
    """The name of a metric in words that a table has room for."""
    name = short(name)
    for prefix, words in (("i2t_R@", "image→text R@"), ("t2i_R@", "text→image R@")):
        if name.startswith(prefix):
            return words + name.removeprefix(prefix)
    for prefix, words in (("bbox_", "box "), ("segm_", "mask ")):
        if name.startswith(prefix):
            return words + name.removeprefix(prefix)
    if name.startswith(CAPTION_SCORES):
        return f"{name} (\u00d7100)"
    return NAMES.get(name, name.replace("_", " "))


def scale(name: str, value: float | None, evaluation: Evaluation) -> Scale:
    """Fractions become percent; caption scores are given times 100, as papers do; ranks stay.

    mmseg's IoUMetric writes percent itself, everything of ours fractions.
    """
    name = short(name)
    if "median_rank" in name:
        return Scale(1, 1, "", higher_is_better=False)
    if name.startswith(CAPTION_SCORES):
        return Scale(100, 1, "")  # label() says so
    if name in MMSEG_PERCENT:
        written = "IoUMetric" in json.dumps(evaluation.record.get("protocol"), default=str)
        return Scale(1 if written or (value or 0) > 1 else 100, 1, " %")
    share = name.startswith(CAPTION_SHARES) and name not in PER_CAPTION
    if "R@" in name or share or name.startswith(("bbox_", "segm_")):
        better = not name.startswith("CHAIR")
        return Scale(100, 1, " %", higher_is_better=better)
    return Scale(1, None, "")


def shown(name: str, value: float | None, evaluation: Evaluation) -> str:
    """A number with its unit; n/a for what could not be measured (COCO writes -1)."""
    if absent(name, value):
        return "n/a"
    how = scale(name, value, evaluation)
    return _number(value * how.factor, how) + how.unit


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


@dataclass(frozen=True)
class Difference:
    """SPARC minus another start, in shown units."""

    text: str
    better: bool | None  # None: equal, or not known


@dataclass
class Comparison:
    """Evaluations of one setting from different backbones; `starts` begins with SPARC."""

    kind: str
    place: str
    config: str
    data: str
    starts: dict[str, list[Evaluation]]
    remark: str

    @property
    def config_name(self) -> str:
        """'flickr8k/det' of 'configs/flickr8k/det.py'."""
        return self.config.removeprefix("configs/").removesuffix(".py")

    @property
    def one_run_each(self) -> bool:
        return all(len(runs) == 1 for runs in self.starts.values())

    def names(self) -> list[str]:
        """The metrics that SPARC and at least one other start have; no ends of intervals."""
        first, *others = self.starts.values()
        return [
            name
            for name in first[0].metrics
            if not name.endswith(("_low", "_high"))
            and any(name in run.metrics for runs in others for run in runs)
        ]

    def headline(self) -> str | None:
        """The metric that stands for this comparison."""
        names = {short(name): name for name in next(iter(self.starts.values()))[0].metrics}
        wanted = HEADLINE.get(self.kind, tuple(names)[:1])
        return next((names[name] for name in wanted if name in names), None)

    def cell(self, start: str, name: str) -> Cell | None:
        """The mean over the runs of `start`; None where it has no such evaluation."""
        runs = [run for run in self.starts.get(start, []) if name in run.metrics]
        if not runs:
            return None
        values = [run.metrics[name] for run in runs if not absent(name, run.metrics[name])]
        if not values:
            return Cell(None, "n/a", len(runs))
        how = scale(name, max(values), runs[0])
        text = _number(fmean(values) * how.factor, how) + how.unit
        if len(values) > 1:
            low, high = (_number(v * how.factor, how) for v in (min(values), max(values)))
            text += f" (mean of {len(values)}, {low} to {high})"
        return Cell(fmean(values) * how.factor, text, len(values))

    def difference(self, other: str, name: str) -> Difference | None:
        """SPARC minus `other`; None where one of them is missing."""
        first, second = self.cell("SPARC", name), self.cell(other, name)
        if first is None or second is None or first.value is None or second.value is None:
            return None
        how = scale(name, self.starts["SPARC"][0].metrics[name], self.starts["SPARC"][0])
        gap = first.value - second.value
        text = _number(abs(gap), how)
        if float(text.replace(",", "")) == 0:
            return Difference("0" if how.digits is None else text, None)
        unit = " points" if how.unit == " %" else ""
        better = (gap > 0) == how.higher_is_better
        return Difference(f"{'+' if gap > 0 else MINUS}{text}{unit}", better)


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """SPARC beside the other starts, for every setting (kind, config, data) that has both.

    Evaluations of one backbone are runs of one start and are averaged; different SPARC backbones
    give different comparisons, and the CLIP backbones beside them are those that saw as many pairs,
    if any did.
    """
    settings: dict[tuple[str, str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        settings.setdefault(evaluation.setting, []).append(evaluation)
    found = []
    for (kind, config, data), group in settings.items():
        origins: dict[tuple[str, str], list[Evaluation]] = {}
        for evaluation in group:
            key = evaluation.start, str(evaluation.backbone.get("sha256"))
            origins.setdefault(key, []).append(evaluation)
        ours = {key: runs for key, runs in origins.items() if key[0] == "SPARC"}
        for (_, sha), sparc in ours.items():
            seen = sparc[0].backbone.get("samples_seen")
            others: dict[str, list[Evaluation]] = {}
            for name in dict.fromkeys(start for start, _ in origins if start != "SPARC"):
                runs = [r for (start, _), rs in origins.items() if start == name for r in rs]
                alike = [r for r in runs if r.backbone.get("samples_seen") == seen]
                others[name] = alike or runs
            remarks = []
            if len(ours) > 1:
                remarks.append(f"SPARC run {sparc[0].backbone.get('run')} ({sha[:12]})")
            if unlike := _protocol_differences(sparc, others):
                remarks.append(f"not alike: {', '.join(unlike)}")
            starts = {"SPARC": sparc, **others}
            place = sparc[0].place
            if others:
                found.append(Comparison(kind, place, config, data, starts, "; ".join(remarks)))
    return found


def _protocol_differences(
    sparc: Sequence[Evaluation], others: dict[str, list[Evaluation]]
) -> list[str]:
    """What was not alike, in words: a difference of numbers may come from it."""
    mine, found = _protocol(sparc[0]), []
    for name, runs in others.items():
        theirs = _protocol(runs[0])
        unlike = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
        if not (mine.get("iterations") and theirs.get("iterations")):
            # a test of a checkpoint counts no iterations
            unlike = [k for k in unlike if k != "iterations"]
        found += [f"{k} {mine.get(k)} with SPARC and {theirs.get(k)} with {name}" for k in unlike]
    return found


def _protocol(evaluation: Evaluation) -> dict[str, Any]:
    """The protocol without what has to differ: output files, and the objective that reads."""
    protocol = dict(evaluation.record.get("protocol") or {})
    protocol.pop("read_by", None)
    if isinstance(protocol.get("evaluator"), dict):
        protocol["evaluator"] = {
            k: v for k, v in protocol["evaluator"].items() if k != "outfile_prefix"
        }
    return protocol


def summary(comparisons: Sequence[Comparison]) -> list[str]:
    """The headline numbers: one sentence beside random initialisation, one beside CLIP."""
    sentences = []
    places = [(one.kind, one.place) for one in comparisons]
    for other in (RANDOM, "CLIP"):
        parts = []
        for one in comparisons:
            name = one.headline()
            sparc, cell = (one.cell(s, name) if name else None for s in ("SPARC", other))
            gap = one.difference(other, name) if name else None
            if sparc and cell and gap:
                twice = places.count((one.kind, one.place)) > 1
                where = f"{one.place} ({one.config_name})" if twice else one.place
                what = f"{one.kind} on {where}, {label(name)} {sparc.text}"
                parts.append(f"{what} against {cell.text} ({gap.text})")
        if parts:
            sentences.append(f"SPARC instead of {other}: {'; '.join(parts)}.")
    return sentences
