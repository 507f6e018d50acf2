"""The tables of a study, before they become HTML or Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparc_pretrain.study.catalogue import described
from sparc_pretrain.study.plan import Plan
from sparc_pretrain.study.statistics import LEVEL

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One number of a table: lines of text, the first the number itself.

    verdict: -1 behind the baseline, 1 ahead, 0 not told apart. firm: also after Holm's correction.
    best: the highest of its line.
    """

    lines: tuple[str, ...]
    verdict: int = 0
    firm: bool = False
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a table: a label, a few words on it, an entry or None per column; a line without
    entries is a heading.
    """

    label: str
    words: str
    entries: list[Entry | None]


@dataclass(frozen=True)
class Sheet:
    """A table: title, note above it, column names, lines."""

    title: str
    note: str
    columns: list[str]
    lines: list[Line]


def sheets(plan: Plan, study: dict[str, Any]) -> list[Sheet]:
    """All tables of a study.json, in the order of the page."""
    rows = study["rows"]
    there = {row["arm"] for row in rows}
    groups = {
        group: [a.name for a in plan.arms.values() if a.group == group and a.name in there]
        for group in ("main", "control", "sweep")
    }
    base = plan.baseline
    main = [base, *(name for name in groups["main"] if name != base)]
    found = [verdicts(plan, rows, [n for n in main if n != base] + groups["control"])]
    found.append(quality(plan, rows, main, "Objectives under one recipe"))
    if groups["control"]:
        beside = [base, *(n for n in ("sparc",) if n in there and n != base)]
        found.append(quality(plan, rows, beside + groups["control"], "Controls"))
    mixed = "; " in study["machine"] or len(study["precision"]) > 1
    found.append(costs(plan, rows, main + groups["control"], mixed))
    return [sheet for sheet in found + sweeps(plan, rows, groups["sweep"]) if sheet.lines]


def entry(row: Row | None, best: bool = False, seeds: int = 1) -> Entry | None:
    """A row of `statistics.table` as an entry; `seeds`: of the arm, said where the row has less."""
    if row is None:
        return None
    text = number(row["mean"])
    text += f" ± {number(row['error'])}" if row["error"] is not None else ""
    fewer = (f"{row['seeds']} of {seeds} seeds",) if row["seeds"] < seeds else ()
    if row.get("difference") is None:
        return Entry((text, *fewer), best=best)
    lines = [text, number(row["difference"], True)]
    lines.append(f"items {interval(row['low'], row['high'])}")
    if row["difference_error"] is not None:
        lines.append(f"both {interval(row['both_low'], row['both_high'])}")
    verdict = 0 if row["noise"] else (1 if row["difference"] > 0 else -1)
    # one training each is two trainings, not two objectives, whatever the items say
    firm = bool(verdict) and row["difference_error"] is not None and row["holm"] < LEVEL
    return Entry((*lines, *fewer), verdict, firm, best)


def quality(plan: Plan, rows: list[Row], arms: Sequence[str], title: str) -> Sheet:
    """Metrics by arms, under a heading per task."""
    cells = {(r["arm"], r["metric"]): r for r in rows if r["kind"] == "quality"}
    metrics = [m for m in _metrics(rows) if any((arm, m) in cells for arm in arms)]
    seeds = {
        arm: max((r["seeds"] for (a, _), r in cells.items() if a == arm), default=1) for arm in arms
    }
    lines: list[Line] = []
    for task in dict.fromkeys(described(m).task for m in metrics):
        lines.append(Line(task, "", []))
        for metric in (m for m in metrics if described(m).task == task):
            means = {a: cells[a, metric]["mean"] for a in arms if (a, metric) in cells}
            top = max(means.values())
            entries = [entry(cells.get((a, metric)), means.get(a) == top, seeds[a]) for a in arms]
            lines.append(Line(described(metric).title, described(metric).words, entries))
    own = [arm for arm in arms if plan.arms[arm].group == plan.arms[arms[-1]].group]
    count = sum(r.get("holm") is not None for (a, _), r in cells.items() if a in own)
    note = (
        f"Higher is better. Under each mean the difference to {plan.arms[plan.baseline].label}. "
        f"{count} comparison{'s' * (count != 1)}: about {count * LEVEL:.0f} would look told apart "
        "by chance alone; the doubled marks are corrected for that."
    )
    return Sheet(title, note, [plan.arms[a].label for a in arms], lines)


def verdicts(plan: Plan, rows: list[Row], arms: Sequence[str]) -> Sheet:
    """How many metrics of each task an arm is ahead or behind in."""
    cells = [r for r in rows if r.get("difference") is not None]
    tasks = list(dict.fromkeys(described(r["metric"]).task for r in cells))
    lines = []
    for arm in arms:
        entries = []
        for task in tasks:
            own = [
                entry(r) for r in cells if (r["arm"], described(r["metric"]).task) == (arm, task)
            ]
            ahead, behind = (sum(e.verdict == v for e in own) for v in (1, -1))
            counts = {"ahead": ahead, "behind": behind, "open": len(own) - ahead - behind}
            text = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
            side = (ahead > 0) - (behind > 0)
            firm = any(e.firm and e.verdict == side for e in own)
            entries.append(Entry((text,), side, firm) if own else None)
        if any(entries):
            lines.append(Line(plan.arms[arm].label, "", entries))
    note = (
        f"Of each task's metrics, how many are told apart from {plan.arms[plan.baseline].label}, "
        "and on which side; open = inside the noise. Marked where all that are told apart agree."
    )
    return Sheet("Who is ahead where", note, [task.partition(":")[0] for task in tasks], lines)


def costs(plan: Plan, rows: list[Row], arms: Sequence[str], mixed: bool = False) -> Sheet:
    """What each arm cost, measured in the runs above; `mixed`: on several machines."""
    cells = {(r["arm"], r["metric"]): r for r in rows if r["kind"] == "cost"}
    names = list(dict.fromkeys(metric for _, metric in cells))
    lines = [
        Line(plan.arms[arm].label, "", [entry(cells.get((arm, name))) for name in names])
        for arm in arms
        if any((arm, name) in cells for name in names)
    ]
    note = (
        "Median time of a training step and peak memory, measured in the runs above, on a machine "
        "that other work may have shared; minutes are those of the steps and the evaluation."
    )
    if mixed:
        note += " Cells of several machines or precisions are in it: their times do not compare."
    return Sheet("Cost", note, names, lines)


def sweeps(plan: Plan, rows: list[Row], arms: Sequence[str]) -> list[Sheet]:
    """One table per swept key: its values by the headline metrics."""
    cells = {(r["arm"], r["metric"]): r for r in rows if r["kind"] == "quality"}
    metrics = [m for m in _metrics(rows) if described(m).headline]
    of_key: dict[str, list[str]] = {}
    for arm in arms:
        base = next(a for a in plan.arms.values() if a.group != "sweep" and _sweeps(a, arm, plan))
        new = plan.arms[arm].options.keys() - base.options.keys()
        of_key.setdefault(next(iter(new), ""), []).append(arm)
    found = []
    for key, swept in of_key.items():
        lines = [
            Line(plan.arms[arm].label, "", [entry(cells.get((arm, m))) for m in metrics])
            for arm in swept
        ]
        share = plan.arms[swept[0]].budget
        note = (
            f"{key} at {share:.0%} of the budget, seeds {list(plan.arms[swept[0]].seeds)}: compare "
            "these lines with each other, not with the tables above."
        )
        title = f"Sweep of {key.rpartition('.')[2]}"
        found.append(Sheet(title, note, [described(m).title for m in metrics], lines))
    return found


def _sweeps(base: Any, arm: str, plan: Plan) -> bool:
    """Whether a sweep's arm was made of `base`."""
    return arm.startswith(f"{base.name}_") and plan.arms[arm].objective == base.objective


def _metrics(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(r["metric"] for r in rows if r["kind"] == "quality"))


def interval(low: float, high: float) -> str:
    """'[-0.140, -0.015]'."""
    return f"[{number(low, True)}, {number(high, True)}]"


def number(value: float, signed: bool = False) -> str:
    """Three decimals below 10, else one; `signed` always shows the sign."""
    digits = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if signed else ''}.{digits}f}"
