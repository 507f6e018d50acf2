"""Two ways to do one thing, as ratios: in turn (A, B, A again), repeat by repeat, with A against
itself to show what the machine's noise is worth.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from sparc_pretrain.atomic_file import atomic_write

TITLE = """# Throughput

Ratios from one run each: A, B and A again in turn; the median of the ratios pair by pair (least to
greatest). Absolute seconds are of a machine with other work beside, and say little."""

Runs = dict[str, list[dict[str, float]]]


def interleaved(
    names: Sequence[str], repeats: int, once: Callable[[str, int], dict[str, float]]
) -> Runs:
    """Each of `names` once per repeat, in turn."""
    runs: Runs = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names:
            runs[name].append(once(name, repeat))
        print(f"repeat {repeat + 1} of {repeats} done", flush=True)
    return runs


def paired(runs: Runs, over: str, under: str, key: str) -> tuple[float, float, float]:
    """Median, least and greatest of the ratios `over` / `under`, repeat by repeat."""
    ratios = [a[key] / b[key] for a, b in zip(runs[over], runs[under], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def table(runs: Runs, rows: dict[str, str], ratio: tuple[str, str]) -> str:
    """A row per figure: median seconds of A and B, their ratio, and the same of A twice."""
    over, under = ratio
    lines = [
        f"| seconds | A | B | {over} / {under} | noise: A again / A |",
        "|---|---|---|---|---|",
    ]
    for label, key in rows.items():
        middle = [statistics.median(run[key] for run in runs[name]) for name in ("A", "B")]
        shown = [f"{value:.3f}" for value in middle]
        for pair in (ratio, ("A again", "A")):
            shown.append("**{:.3f}** ({:.3f} to {:.3f})".format(*paired(runs, *pair, key)))
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def put_section(path: Path, heading: str, text: str) -> None:
    """Replaces the section `## heading` of a Markdown file, or adds it; the others stay."""
    old = path.read_text(encoding="utf-8") if path.is_file() else f"{TITLE}\n"
    head, *sections = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    new = f"## {heading}\n\n{text.strip()}\n"
    places = [i for i, section in enumerate(sections) if section.startswith(f"## {heading}\n")]
    for i in places:
        sections[i] = new
    sections += [] if places else [new]
    whole = "\n\n".join(part.strip() for part in (head, *sections)) + "\n"
    atomic_write(path, lambda file: file.write(whole.encode()))
