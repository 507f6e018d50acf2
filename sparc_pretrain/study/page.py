"""study.html and study.md: the tables and plots of a study on pages that need no other file."""

from __future__ import annotations

import html
from typing import Any

from sparc_pretrain.page import viewer
from sparc_pretrain.study.catalogue import described
from sparc_pretrain.study.plan import Plan
from sparc_pretrain.study.protocol import about, how_to_read, protocol
from sparc_pretrain.study.sheets import Entry, Line, Sheet, number, sheets
from sparc_pretrain.study.verdict import verdict

WIDTH, ROW, LEFT, RIGHT = 400, 22, 152, 50
MARKS = {1: "▲", -1: "▼", 0: ""}


def render(plan: Plan, study: dict[str, Any]) -> str:
    """The HTML page of a study.json (see `tools/study.py`)."""
    parts = [
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width='
        'device-width,initial-scale=1"><meta name=color-scheme content="light dark">',
        f"<title>Study: {_text(study['name'])}</title>",
        f"<style>{viewer.part('design.css')}{viewer.part('study.css')}</style>",
        f"<h1>Study: {_text(study['name'])}</h1>",
        "<ul class=verdict>",
        *(f"<li>{_text(line)}</li>" for line in verdict(plan, study)),
        "</ul>",
        *(f"<p>{_text(line)}</p>" for line in about(plan, study)),
        "<h2>How to read the tables</h2><ul>",
        *(f"<li>{_text(line)}</li>" for line in how_to_read(plan)),
        "</ul>",
        *(_table(sheet) for sheet in sheets(plan, study)),
        "<h2>Plots</h2><p>A dot per seed, a bar at their mean; the dashed line is "
        f"{_text(plan.arms[plan.baseline].label)}.</p>",
        *("<div class=plots>", *_plots(plan, study["rows"]), "</div>"),
        "<h2>Protocol</h2><ul>",
        *(f"<li>{_text(line)}</li>" for line in protocol(plan, study)),
        "</ul></html>",
    ]
    return "".join(parts)


def markdown(plan: Plan, study: dict[str, Any]) -> str:
    """The same, without plots, for where HTML is not shown."""
    parts = [f"# Study: {study['name']}", "\n".join(f"- {line}" for line in verdict(plan, study))]
    parts += [*about(plan, study), "## How to read the tables"]
    parts.append("\n".join(f"- {line}" for line in how_to_read(plan)))
    for sheet in sheets(plan, study):
        head = ["", *sheet.columns]
        rows = [head, ["---", *["---:"] * len(sheet.columns)]]
        rows += [_plain(line, len(sheet.columns)) for line in sheet.lines]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts += [f"## {sheet.title}", sheet.note, table]
    parts += ["## Protocol", "\n".join(f"- {line}" for line in protocol(plan, study))]
    return "\n\n".join(parts) + "\n"


def _plain(line: Line, columns: int) -> list[str]:
    if not line.entries:
        return [f"**{line.label}**", *[""] * columns]
    found = [line.label]
    for entry in line.entries:
        if entry is None:
            found.append("-")
            continue
        first, *rest = entry.lines
        first = f"**{first}**" if entry.best else first
        found.append("<br>".join([f"{first} {_mark(entry)}".strip(), *rest]))
    return found


def _mark(entry: Entry) -> str:
    return MARKS[entry.verdict] + ("≈" if entry.same else "")


def _table(sheet: Sheet) -> str:
    head = "".join(f"<th scope=col>{_text(column)}</th>" for column in sheet.columns)
    body = "".join(_line(line, len(sheet.columns)) for line in sheet.lines)
    return (
        f"<h2>{_text(sheet.title)}</h2><p>{_text(sheet.note)}</p>"
        f'<div class=scroll role=region aria-label="{_text(sheet.title)}" tabindex=0>'
        f"<table><tr><th></th>{head}</tr>{body}</table></div>"
    )


def _line(line: Line, columns: int) -> str:
    if not line.entries:
        return f"<tr class=task><td colspan={columns + 1}>{_text(line.label)}</td></tr>"
    words = f"<small>{_text(line.words)}</small>" if line.words else ""
    cells = "".join(map(_cell, line.entries))
    return f"<tr><td>{_text(line.label)}{words}</td>{cells}</tr>"


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "<td>&ndash;</td>"
    kinds = [{1: "up", -1: "down", 0: ""}[entry.verdict]]
    kinds += ["same"] if entry.same else []
    kinds += ["best"] if entry.best else []
    first, *rest = entry.lines
    small = "".join(f"<small>{_text(line)}</small>" for line in rest)
    name = f' class="{" ".join(kinds).strip()}"' if any(kinds) else ""
    return f"<td{name}>{_mark(entry)} <span class=mean>{_text(first)}</span>{small}</td>"


def _plots(plan: Plan, rows: list[dict[str, Any]]) -> list[str]:
    shown = [a.name for a in plan.arms.values() if a.group != "sweep"]
    plots = []
    for metric in dict.fromkeys(r["metric"] for r in rows):
        points = [r for name in shown for r in rows if (r["arm"], r["metric"]) == (name, metric)]
        mean = next((r["mean"] for r in points if r["arm"] == plan.baseline), None)
        if points:
            named = [(plan.arms[r["arm"]].label, r) for r in points]
            plots.append(dots(metric, named, mean))
    return plots


def dots(
    metric: str, points: list[tuple[str, dict[str, Any]]], baseline: float | None = None
) -> str:
    """A dot per seed and a bar at their mean for each (label, row), as an SVG figure."""
    every = [value for _, row in points for value in row["values"]]
    low, high = min(0.0, min(every)), max(every) or 1.0

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT)

    height = ROW * len(points) + 8
    marks = []
    if baseline is not None:
        marks.append(
            f'<line x1="{x(baseline):.1f}" x2="{x(baseline):.1f}" y1="2" y2="{height - 2}" '
            'class="base"/>'
        )
    for i, (label, row) in enumerate(points):
        y = ROW * i + ROW / 2 + 4
        marks.append(
            f'<text x="0" y="{y + 4:.0f}">{_text(label)}</text>'
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="row"/>'
            f'<line x1="{x(row["mean"]):.1f}" x2="{x(row["mean"]):.1f}" '
            f'y1="{y - 7}" y2="{y + 7}" class="mean"/>'
            + "".join(
                f'<circle cx="{x(value):.1f}" cy="{y}" r="3" class="seed"/>'
                for value in row["values"]
            )
            + f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:.0f}">{number(row["mean"])}</text>'
        )
    task, words = described(metric)
    task = f"<small>{_text(task.partition(':')[0])}</small> " if words.words else ""
    told = "; ".join(f"{label}: {number(row['mean'])}" for label, row in points)
    return (
        f"<figure><figcaption>{task}{_text(words.title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img" '
        f'aria-label="{_text(told)}">{"".join(marks)}</svg></figure>'
    )


def _text(value: Any) -> str:
    return html.escape(str(value))
