"""The report's first words, made from its numbers: what was found, how sure, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparc_pretrain.metric import short
from sparc_pretrain.report.numbers import Comparison, label, shown
from sparc_pretrain.report.records import RANDOM, Evaluation, Found

PAPER_PAIRS = 3.2e9  # that SPARC was trained on (arXiv 2401.09865, App. D)
NAMED = 3  # differences that a sentence names


@dataclass(frozen=True)
class Step:
    """Something to do next: why, and the command."""

    why: str
    command: str


def verdict(comparisons: Sequence[Comparison], found: Found) -> tuple[str, str]:
    """Two sentences: the headline differences, those outside their interval first; and how far they
    can be believed.
    """
    rows = [
        (start, one, one.difference(start, name), name)
        for one in comparisons
        if (name := one.headline()) is not None
        for start in one.starts
        if start != one.baseline
    ]
    rows = [row for row in rows if row[2] is not None]
    seen = max((run.config.get("samples_seen") or 0 for run in found.runs), default=0)
    scale = ""
    if 0 < seen < PAPER_PAIRS / 10:
        share = PAPER_PAIRS / seen
        scale = (
            f" The longest pre-training here saw {seen:,} pairs, one {_round(share)}th of the "
            "paper's: expect the way to work, not the paper's gains."
        )
    if not rows:
        count = len(found.evaluations)
        return (
            f"{count} evaluation{'s' * (count != 1)} of one start each: nothing is compared.",
            _above_chance(found.evaluations) + scale,
        )
    sure = [row for row in rows if row[2].sure and row[2].better is not None]
    told = "; ".join(_told(*row) for row in (sure or rows)[:NAMED])
    if sure:
        count = f"{len(sure)} of {len(rows)} headline difference{'s' * (len(rows) > 1)}"
        first = f"{count} {'is' if len(sure) == 1 else 'are'} outside an interval: {told}."
    else:
        first = (
            "Nothing is decided: no headline difference is outside an interval. As measured, "
            f"{told}."
        )
    single = all(one.one_run_each for one in comparisons)
    how = (
        "One run each: differences may be noise of the seed, so this shows how things work, not "
        "which start is better."
        if single
        else "Intervals are over runs (Welch, 95 %), without correction for the number of "
        "comparisons."
    )
    return first, how + scale


def next_steps(comparisons: Sequence[Comparison], found: Found) -> list[Step]:
    """What would make the page say more, with commands for this data."""
    steps, run = [], next((run for run in found.runs if run.config["text"]), None)
    if any(one.one_run_each for one in comparisons):
        one = next(one for one in comparisons if one.one_run_each)
        if one.config.endswith(".py") and run is not None:
            steps.append(
                Step(
                    "A second seed of each start gives every difference an interval:",
                    f"sparc train {one.config} --backbone {run.path.parent} --work-dir "
                    "work_dirs/seed1 --cfg-options randomness.seed=1",
                )
            )
    points = any("pointing" in short(n) for e in found.evaluations for n in e.metrics)
    if run is not None and not points:
        steps.append(
            Step(
                "Whether words point at the right place, with chance beside it:",
                f"sparc zeroshot {run.path.parent} grounding --images DIR --phrases FILE",
            )
        )
    if run is not None:
        steps.append(
            Step(
                "A caption of your own over a photo of your own:",
                f'sparc align {run.path.parent} photo.jpg "what is in it"',
            )
        )
    if not comparisons:
        steps.append(
            Step(
                "The same task from random weights, the baseline:",
                "sparc train CONFIG --backbone RUN --from-scratch",
            )
        )
    return steps


def _told(start: str, one: Comparison, gap, name: str) -> str:
    cell, base = one.cell(start, name), one.cell(one.baseline, name)
    against = "random weights" if one.baseline == RANDOM else one.baseline
    what = f"{one.kind} on {one.place}"
    return (
        f"{start} against {against} in {what}, {label(name, one.starts[start][0])} {cell.plain} "
        f"against {base.plain} ({gap.text}, {gap.n})"
    )


def _above_chance(evaluations: Sequence[Evaluation]) -> str:
    """The first headline whose chance is known, beside it."""
    for one in evaluations:
        name = one.headline
        if name is None or one.metrics[name] is None:
            continue
        chance = (one.record.get("protocol") or {}).get(f"chance_{short(name).split('_')[-1]}")
        if chance:
            return (
                f"{one.kind.capitalize()} on {one.place}: {label(name, one)} "
                f"{shown(name, one.metrics[name], one)}, by chance {shown(name, chance, one)}."
            )
    return (
        "No evaluation has a baseline or a chance beside it, so no number says yet whether it "
        "is a good one."
    )


def _round(value: float) -> str:
    """Two digits: 89,285 -> 89,000."""
    unit = 10 ** max(0, len(str(int(value))) - 2)
    return f"{round(value / unit) * unit:,}"
