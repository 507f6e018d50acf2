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

    verdict: of a primary outcome, -1 behind, 1 ahead, 0 not decided. same: equivalent within the
    study's bound. best: the highest of its line.
    """

    lines: tuple[str, ...]
    verdict: int = 0
    same: bool = False
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
    blind, bound = study.get("blind", {}), plan.equivalence
    every = _metrics(rows)
    primary = [m for m in plan.primary if m in every]
    others = [m for m in every if m not in primary]
    found = []
    if primary:
        title = "Primary outcomes, named beforehand"
        found.append(quality(plan, rows, main, title, primary, blind, bound))
        if groups["control"]:
            twins = [name for arm in groups["control"] for name in _beside(plan, arm)]
            columns = list(dict.fromkeys(n for n in (base, *twins) if n in there))
            found.append(quality(plan, rows, columns, "Controls", primary, blind, bound))
    if others:
        title = "Other metrics, not tested" if primary else "Metrics, not tested"
        columns = main + groups["control"]
        found.append(quality(plan, rows, columns, title, others, blind, bound))
    mixed = "; " in study["machine"] or len(study["precision"]) > 1
    found.append(costs(plan, rows, main + groups["control"], mixed))
    return [sheet for sheet in found + sweeps(plan, rows, groups["sweep"]) if sheet.lines]


def _beside(plan: Plan, arm: str) -> tuple[str, ...]:
    """A control, after the arm it is held against."""
    other = plan.arms[arm].twin_of
    return (other, arm) if other else (arm,)


def entry(row: Row | None, best: bool = False, seeds: int = 1, bound: float = 0.0) -> Entry | None:
    """A row of `statistics.table` as an entry; `seeds`: of the arm, said where the row has less."""
    if row is None:
        return None
    lines = [number(row["mean"])]
    if row["seeds"] > 1:
        lines.append("seeds " + " ".join(number(v) for v in row["values"]))
    if row["seeds"] < seeds:
        lines.append(f"{row['seeds']} of {seeds} seeds")
    if row.get("difference") is None:
        return Entry(tuple(lines), best=best)
    known = row["low"] is not None
    error = f" {interval(row['low'], row['high'])}" if known else ""
    lines.append(number(row["difference"], True) + error)
    if "holm" not in row:
        return Entry(tuple(lines), best=best)
    lines.append(f"p {row['holm']:.3f}" if row["holm"] >= 0.0005 else "p < 0.001")
    decided = row["holm"] < LEVEL
    same = row["reach"] is not None and row["reach"] < bound
    return Entry(tuple(lines), decided * (1 if row["difference"] > 0 else -1), same, best)


def quality(
    plan: Plan,
    rows: list[Row],
    arms: Sequence[str],
    title: str,
    metrics: Sequence[str],
    blind: dict[str, dict[str, float]],
    bound: float,
) -> Sheet:
    """Metrics by arms, under a heading per task, each with what one gets without looking."""
    cells = {(r["arm"], r["metric"]): r for r in rows if r["kind"] == "quality"}
    metrics = [m for m in metrics if any((arm, m) in cells for arm in arms)]
    seeds = {
        arm: max((r["seeds"] for (a, _), r in cells.items() if a == arm), default=1) for arm in arms
    }
    lines: list[Line] = []
    for task in dict.fromkeys(described(m)[0] for m in metrics):
        lines.append(Line(task, "", []))
        for metric in (m for m in metrics if described(m)[0] == task):
            means = {a: cells[a, metric]["mean"] for a in arms if (a, metric) in cells}
            top = max(means.values())
            entries = [
                entry(cells.get((a, metric)), means.get(a) == top, seeds[a], bound) for a in arms
            ]
            beaten = ", ".join(f"{k} {number(v)}" for k, v in blind.get(metric, {}).items())
            said = described(metric)[1]
            words = said.words + (f"; without looking: {beaten}" if beaten else "")
            lines.append(Line(said.title, words, entries))
    base = plan.arms[plan.baseline].label
    held = [
        f"{plan.arms[a].label} is held against {plan.arms[plan.twins[a]].label}"
        for a in arms
        if a in plan.twins
    ]
    tested = sum("holm" in r for (a, m), r in cells.items() if a in arms and m in metrics)
    note = f"Higher is better. Under each mean the difference to {base}; " if not held else ""
    note = note or f"Under each mean the difference to {base}, but {'; '.join(held)}; "
    note += (
        f"{tested} comparisons, corrected for their number." if tested else "no test is made of it."
    )
    return Sheet(title, note, [plan.arms[a].label for a in arms], lines)


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
    """One table per swept key: its values by the primary outcomes and the headline metrics."""
    cells = {(r["arm"], r["metric"]): r for r in rows if r["kind"] == "quality"}
    metrics = [m for m in _metrics(rows) if m in plan.primary or described(m)[1].headline]
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
        found.append(Sheet(title, note, [described(m)[1].title for m in metrics], lines))
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
    """Three decimals below 10, else one; `signed` always shows the sign, zero has no minus."""
    digits = 3 if abs(value) < 10 else 1
    value = round(value, digits) + 0.0
    return f"{value:{'+' if signed else ''}.{digits}f}"
