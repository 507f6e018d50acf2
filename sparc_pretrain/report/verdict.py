"""The report's first words, made from its numbers: what was found, how sure, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparc_pretrain.metric import short
from sparc_pretrain.report.numbers import Comparison, chances, label, shown
from sparc_pretrain.report.records import RANDOM, Evaluation, Found

PAPER_PAIRS = 3.2e9  # that SPARC was trained on (arXiv 2401.09865, App. D)
SEED = "--cfg-options randomness.seed=1"
NAMED = 4  # differences that a sentence names
ALONE = (
    "No evaluation has a baseline or a chance beside it, so no number says yet whether it is a "
    "good one."
)


@dataclass(frozen=True)
class Step:
    """Something to do next: why, and the commands, one a line."""

    why: str
    command: str


def verdict(comparisons: Sequence[Comparison], found: Found) -> tuple[str, str]:
    """What the headline differences decide, with all of them that are outside an interval, else as
    they were measured; and what stands against chance, at which scale.
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
            "paper's: it shows that the way works, not the paper's gains."
        )
    if not rows:
        count = len(found.evaluations)
        return (
            f"{count} evaluation{'s' * (count != 1)} of one start each: nothing is compared.",
            (_above_chance(found.evaluations) or ALONE) + scale,
        )
    sure = [row for row in rows if row[2].sure and row[2].better is not None]
    single = all(one.one_run_each for one in comparisons)
    if sure:
        count = f"{len(sure)} of {len(rows)} headline difference{'s' * (len(rows) > 1)}"
        first = (
            f"{count} {'is' if len(sure) == 1 else 'are'} outside the 95 % interval over runs "
            f"(Welch, not corrected for their number): {_all(sure)}."
        )
    elif single:
        first = (
            "Which start is better is not decided: each was trained once, and another seed may "
            f"turn it round. As measured, {_all(rows)}."
        )
    else:
        first = (
            "Which start is better is not decided: no headline difference is outside its 95 % "
            f"interval over runs. As measured, {_all(rows)}."
        )
    return first, (_above_chance(found.evaluations) + scale).strip()


def next_steps(comparisons: Sequence[Comparison], found: Found) -> list[Step]:
    """What would make the page say more, with commands for this data."""
    steps, run = [], next((run for run in found.runs if run.config["text"]), None)
    if any(one.one_run_each for one in comparisons):
        one = next(one for one in comparisons if one.one_run_each)
        if one.config.endswith(".py") and run is not None:
            train = f"sparc train {one.config} --backbone {near(run.path.parent)}"
            work, seed = near(one.starts[one.baseline][0].file.parent.parent), SEED
            lines = [f"{train} --work-dir {work}/{one.kind}_1 {seed}"]
            if one.baseline == RANDOM:
                lines += [f"{train} --from-scratch --work-dir {work}/{one.kind}_random_1 {seed}"]
            lines += [f"sparc report {work} --out {work}/report.html"]
            steps.append(
                Step(
                    f"A second seed of each start gives {one.kind} an interval (other tasks "
                    "alike):",
                    "\n".join(lines),
                )
            )
    points = any("pointing" in short(n) for e in found.evaluations for n in e.metrics)
    if run is not None and not points:
        steps.append(
            Step(
                "Whether words point at the right place, with chance beside it:",
                f"sparc zeroshot {near(run.path.parent)} grounding --images DIR --phrases FILE",
            )
        )
    if run is not None:
        steps.append(
            Step(
                "A caption of your own over a photo of your own:",
                f'sparc align {near(run.path.parent)} photo.jpg "what is in it"',
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


def _all(rows: Sequence[tuple]) -> str:
    """'on coco, SPARC against random weights: box AP 35 % against 30 % in detection, ...', those
    of one pair of starts together, the place once where it is one; at most NAMED.
    """
    places = list(dict.fromkeys(one.place for _, one, *_ in rows[:NAMED]))
    where = f"on {places[0]}, " if len(places) == 1 else ""
    pairs: dict[str, list[str]] = {}
    for start, one, _, name in rows[:NAMED]:
        cell, base = one.cell(start, name), one.cell(one.baseline, name)
        against = "random weights" if one.baseline == RANDOM else one.baseline
        pairs.setdefault(f"{start} against {against}", []).append(
            f"{_brief(name, one.starts[start][0])} {cell.plain} against {base.plain} in {one.kind}"
            + ("" if where else f" on {one.place}")
        )
    told = where + "; ".join(f"{pair}: {', '.join(them)}" for pair, them in pairs.items())
    more = len(rows) - NAMED
    return f"{told}; and {more} more below" if more > 0 else told


def _above_chance(evaluations: Sequence[Evaluation]) -> str:
    """Headlines of single runs whose chance is known, beside it: the best run of each kind."""
    best: dict[tuple[str, str], Evaluation] = {}
    for one in evaluations:
        name = one.headline
        if name is None or one.metrics[name] is None or not chances(one):
            continue
        before = best.setdefault((one.kind, one.place), one)
        if before.headline == name and one.metrics[name] > before.metrics[name]:
            best[one.kind, one.place] = one
    told = []
    for one in best.values():
        name = one.headline
        without = ", ".join(f"{who} {shown(name, value, one)}" for who, value in chances(one))
        value = shown(name, one.metrics[name], one)
        told.append(f"{one.kind}, {_brief(name, one)} {value} ({without})")
    return f"Against chance: {'; '.join(told)}." if told else ""


def _brief(name: str, evaluation: Evaluation) -> str:
    """The label of a metric without what is said of its scale."""
    return label(name, evaluation).partition(" (\N{MULTIPLICATION SIGN}")[0]


def near(path: Path) -> str:
    """`path`, from here where it is below this folder: what one types, and no home folder of
    whoever made the page.
    """
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _round(value: float) -> str:
    """Two digits: 89,285 -> 89,000."""
    unit = 10 ** max(0, len(str(int(value))) - 2)
    return f"{round(value / unit) * unit:,}"
