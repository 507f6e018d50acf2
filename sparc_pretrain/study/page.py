"""study.html: the tables and plots of a study on one page that needs no other file."""

from __future__ import annotations

import html
from typing import Any

from sparc_pretrain.study.plan import Plan

CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#20242c;max-width:1180px;margin:32px auto;
padding:0 20px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 8px}p{max-width:800px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:right;padding:5px 9px;border-bottom:1px solid #e4e6ea;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:#5c6370;font-weight:600;vertical-align:bottom}
small{color:#747b88}td.up{background:#e3f4e6}td.down{background:#fbe6e2}tr.base td{font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:18px}
figure{margin:0;border:1px solid #e4e6ea;border-radius:6px;padding:10px}figcaption{font-weight:600}
.scroll{overflow-x:auto}svg text{font:12px system-ui,sans-serif;fill:#20242c}
"""
TITLES = {
    "main": "Objectives under one recipe",
    "control": "Controls",
    "sweep": "Sweeps (a share of the budget, not comparable with the tables above)",
}
WIDTH, ROW, LEFT, RIGHT = 340, 22, 110, 62


def render(plan: Plan, study: dict[str, Any]) -> str:
    """The page of a study.json (see `tools/study.py`)."""
    rows = study["rows"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>Study: {_text(study['name'])}</title><style>{CSS}</style>",
        f"<h1>Study: {_text(study['name'])}</h1><p><small>{_text(_about(study))}</small></p>",
        "<p>Mean over seeds ± standard error over seeds; below it the paired difference to "
        f"<b>{_text(plan.arms[plan.baseline].label)}</b> with its 95 % bootstrap interval over "
        "test items. Coloured: told from zero by the items and, with several seeds, by two "
        "standard errors over seeds. Uncoloured differences are inside the noise.</p>",
    ]
    for group, title in TITLES.items():
        arms = [a for a in plan.arms.values() if a.group == group]
        names = [a.name for a in arms if any(r["arm"] == a.name for r in rows)]
        if not names:
            continue
        if group == "control":  # controls are read against the baseline's and SPARC's rows
            names = [plan.baseline, *(n for n in ("sparc",) if n in plan.arms), *names]
        parts += [f"<h2>{title}</h2>", _table(plan, rows, names, "quality")]
        if group == "main":
            parts += ["<h2>Cost</h2>", _table(plan, rows, names, "cost")]
    parts += ["<h2>Plots</h2><div class=plots>", *_plots(plan, rows), "</div></html>"]
    return "".join(parts)


def _about(study: dict[str, Any]) -> str:
    done = f"{study['cells_done']} of {study['cells']} cells"
    return f"{done} · {study['machine']} · {study['versions']} · {study['date']}"


def _table(plan: Plan, rows: list[dict[str, Any]], arms: list[str], kind: str) -> str:
    metrics = list(dict.fromkeys(r["metric"] for r in rows if r["kind"] == kind))
    cells = {(r["arm"], r["metric"]): r for r in rows}
    head = "".join(f"<th>{_text(m)}</th>" for m in metrics)
    lines = []
    for arm in arms:
        mark = " class=base" if arm == plan.baseline else ""
        body = "".join(_cell(cells.get((arm, m))) for m in metrics)
        lines.append(f"<tr{mark}><td>{_text(plan.arms[arm].label)}</td>{body}</tr>")
    return f"<div class=scroll><table><tr><th></th>{head}</tr>{''.join(lines)}</table></div>"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "<td>&ndash;</td>"
    text = number(row["mean"])
    if row["error"] is not None:
        text += f" <small>± {number(row['error'])}</small>"
    if row.get("difference") is None:
        return f"<td>{text}</td>"
    interval = f"[{number(row['low'], True)}, {number(row['high'], True)}]"
    text += f"<br><small>{number(row['difference'], True)} {interval}</small>"
    kind = "" if row["noise"] else (" class=up" if row["difference"] > 0 else " class=down")
    return f"<td{kind}>{text}</td>"


def number(value: float, signed: bool = False) -> str:
    """Three decimals below 10, else one; `signed` always shows the sign."""
    digits = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if signed else ''}.{digits}f}"


def _plots(plan: Plan, rows: list[dict[str, Any]]) -> list[str]:
    shown = [a.name for a in plan.arms.values() if a.group != "sweep"]
    metrics = dict.fromkeys(r["metric"] for r in rows)
    plots = []
    for metric in metrics:
        points = [r for name in shown for r in rows if (r["arm"], r["metric"]) == (name, metric)]
        if points:
            plots.append(dots(metric, [(plan.arms[r["arm"]].label, r) for r in points]))
    return plots


def dots(title: str, points: list[tuple[str, dict[str, Any]]]) -> str:
    """A dot and a bar of ± one standard error for each (label, row), as an SVG figure."""
    reach = [(r["mean"] - (r["error"] or 0), r["mean"] + (r["error"] or 0)) for _, r in points]
    low, high = min(0.0, min(a for a, _ in reach)), max(b for _, b in reach) or 1.0

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT)

    height = ROW * len(points) + 8
    marks = []
    for i, (label, row) in enumerate(points):
        y = ROW * i + ROW / 2 + 4
        error = row["error"] or 0
        marks.append(
            f'<text x="0" y="{y + 4:.0f}">{_text(label[:18])}</text>'
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#eceef1"/>'
            f'<line x1="{x(row["mean"] - error):.1f}" x2="{x(row["mean"] + error):.1f}" '
            f'y1="{y}" y2="{y}" stroke="#2b6cb0" stroke-width="2"/>'
            f'<circle cx="{x(row["mean"]):.1f}" cy="{y}" r="4" fill="#2b6cb0"/>'
            f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:.0f}">{number(row["mean"])}</text>'
        )
    return (
        f"<figure><figcaption>{_text(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" width="100%">{"".join(marks)}</svg></figure>'
    )


def _text(value: Any) -> str:
    return html.escape(str(value))
