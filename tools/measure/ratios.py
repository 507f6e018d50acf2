"""Two ways to do one thing, as ratios: in turn, repeat by repeat, with A against itself to show
what the machine's noise is worth.
"""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sparc_pretrain.atomic_file import atomic_write

TITLE = """# Throughput

Ratios from one run each: A, B and A again in turn; the median of the ratios pair by pair (least to
greatest). Absolute seconds are of a machine with other work beside, and say little."""

WITHIN = 0.03  # of one, A against itself
LEAST = 0.1  # seconds of a turn: shorter ones are read from a clock that other work disturbs
COLUMNS = ("A / B", "repeats", "ratio", "A again / A", "machine", "date")
ROWS = "One thread, processor time"  # the section of `compare`; rows by the clock say so

Work = Callable[[], object]
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


def put_row(path: Path, heading: str, head: Sequence[str], row: Sequence[str]) -> None:
    """Replaces the row of a section's table that begins like `row`, or adds it."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, _, section = text.partition(f"## {heading}\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    rows = [line for line in rows[1:] if not line.startswith(f"| {row[0]} |")]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    put_section(path, heading, "\n".join([*lines, *rows, "| " + " | ".join(row) + " |"]))


def compare(
    a: Work,
    b: Work,
    named: str,
    repeats: int,
    tell: bool = False,
    out: Path | None = None,
    clock: str = "cpu",
) -> Runs:
    """Prints the ratio of A's processor time to B's, its spread, and A against itself: void beyond
    `WITHIN`. A repeat goes there and back (A, B, A again, A again, B, A) and adds both up, so that
    what comes first or behind the other has no advantage; a work shorter than `LEAST` is done
    several times in a turn, and counts as one. `tell`: works return (wall, processor) seconds
    themselves. out: a Markdown file whose table gets the row. clock: "cpu", which other work on the
    machine leaves alone, or "wall", for works that wait or have processes of their own.
    """
    works = {"A": a, "B": b, "A again": a}
    for work in (a, b):
        work()  # kernels are loaded, buffers made
    once_B, once_A = (max(_seconds(work)[1], 1e-6) for work in (b, a))
    times = {"A": once_A, "B": once_B, "A again": once_A}
    times = {name: 1 if tell else math.ceil(LEAST / took) for name, took in times.items()}

    def once(name: str, _: int) -> dict[str, float]:
        told: list[Any] = []
        found = _seconds(lambda: told.extend(works[name]() for _ in range(times[name])))
        seconds = told[0] if tell else [total / times[name] for total in found]
        return dict(zip(("wall", "cpu"), seconds, strict=True))

    both = interleaved([*works, *reversed(works)], repeats, once)
    runs = {
        name: [
            {key: (one[key] + back[key]) / 2 for key in one}
            for one, back in zip(own[::2], own[1::2], strict=True)
        ]
        for name, own in both.items()
    }
    ratio, control = paired(runs, "A", "B", clock), paired(runs, "A again", "A", clock)
    digits = 3 if ratio[0] >= 0.01 else 5
    of, against = (
        "{0:.{n}f} ({1:.{n}f} to {2:.{n}f})".format(*found, n=n)
        for found, n in ((ratio, digits), (control, 3))
    )
    void = "" if abs(control[0] - 1) <= WITHIN else "; VOID: A against itself is off by over 3 %"
    print(f"\n{named}; {repeats} repeats in turn, torch {torch.__version__}")
    print(f"A / B {of}; A again / A {against}{void}")
    if out:
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        against += " **void**" if void else ""
        put_row(out, ROWS, COLUMNS, [named, str(repeats), of, against, machine(), today])
    return runs


def _seconds(work: Work) -> tuple[float, float]:
    """What it takes by the clock, and of the processor."""
    started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def machine() -> str:
    """Its processor, and whether that has units for bfloat16: rows of two machines are told apart
    by it.
    """
    told = Path("/proc/cpuinfo")
    text = told.read_text() if told.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    units = "bfloat16" if re.search(r"\b(amx|avx512)_bf16\b", text) else "no bfloat16"
    return f"{os.cpu_count()} x {model[1] if model else platform.machine()}, {units}"
