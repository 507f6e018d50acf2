"""What a training does on a GPU, in one table and within a few minutes: step times, TFLOP/s and
their share of what a matrix product reaches, peak memory, compile on and off, and whether a step
done twice gives the same bits. Then the tests that need a GPU.

    python tools/measure/gpu.py --out gpu.md             (6 minutes at most; on a CPU in small)

Cells that the time has no room for are left out and said to be.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given

import torch
from steps import Step

from sparc_pretrain import metrics_file
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.command import cli
from sparc_pretrain.engine import flops
from sparc_pretrain.pretraining.delivery import Delivery

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/transfer/mm/test_ops.py", "tests/test_chance.py", "tests/engine/test_precision.py")
# most wanted first
CELLS = [
    dict(name="B/16 SPARC", arch="vit_base_patch16_224", text=(768, 12, 12), batch=512),
    dict(name="B/16 SPARC, compiled", arch="vit_base_patch16_224", text=(768, 12, 12), batch=512),
    dict(name="B/16 CLIP", arch="vit_base_patch16_224", text=(768, 12, 12), batch=512),
    dict(name="S/16 SPARC", arch="vit_small_patch16_224", text=(384, 12, 6), batch=1024),
    dict(name="B/16 SPARC, all blocks recomputed", arch="vit_base_patch16_224",
         text=(768, 12, 12), batch=1024, grad_checkpointing=True),
    dict(name="B/16 SPARC, 4 micro-batches", arch="vit_base_patch16_224", text=(768, 12, 12),
         batch=2048, accumulate=4),
    dict(name="B/16 SPARC, copied within the step", arch="vit_base_patch16_224",
         text=(768, 12, 12), batch=512, copied="within"),
    dict(name="B/16 SPARC, copied ahead", arch="vit_base_patch16_224", text=(768, 12, 12),
         batch=512, copied="ahead"),
]  # fmt: skip
SMALL = dict(
    arch="vit_tiny_patch16_224", text=(48, 2, 2), batch=8, size=32, tokens=12,
    overrides=dict(embed_dim=48, depth=2, num_heads=2, patch_size=8),
)  # fmt: skip
REST = 75.0  # seconds that are kept for the tests


def cell(
    name: str, device: str, steps: int, small: bool, copied: str = "", **options: Any
) -> dict[str, Any]:
    """Median seconds of a step, what it computes, peak memory and whether two first steps agree.

    copied: the batch lies on the CPU, and comes to the device `within` the step, or `ahead` of it,
    as the training loop has it.
    """
    if small:
        options = {**options, **SMALL}
    objective = dict(type="Clip" if "CLIP" in name else "Sparc")
    tokens = options.pop("tokens", 55)
    works = [Step(objective, tokens=tokens, device=device, **options) for _ in range(2)]
    weights = []
    for work in works:
        work()
        weights.append(torch.cat([p.detach().flatten() for p in work.model.parameters()]))
    apart = (weights[0] - weights[1]).abs().max().item()
    work, weights = works.pop(0), []
    works.clear()
    if "compiled" in name:
        work.model.encoder.vision.compile()
        work.model.encoder.text.compile(dynamic=True)
        work()
    per_pair = flops.per_pair(work.model, work.batch)
    cuda = device == "cuda"
    coming = repeat(work.batch)
    if copied:
        there = work.batch.to("cpu")
        coming = repeat(there.pin_memory() if cuda else there)
    if copied == "ahead":
        coming = iter(Delivery(coming, 1, torch.device(device)))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        work(next(coming))
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    seconds = sorted(times)[len(times) // 2]
    rate = per_pair * work.size / seconds
    reached = flops.product_rate(device, torch.bfloat16, 8192 if cuda else 512)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    return dict(
        name=name, seconds=seconds, pairs=work.size / seconds, tflops=rate / 1e12,
        share=100 * rate / reached, peak=peak, apart=apart,
    )  # fmt: skip


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        "| {name} | {seconds:.4f} | {pairs:,.0f} | {tflops:.3g} | {share:.3g} | {peak:.1f} | "
        "{apart:.1e} |".format(**found)
    )


def tests(seconds: float) -> str:
    """What pytest says of the tests that use a GPU where there is one."""
    command = [sys.executable, "-m", "pytest", "-q", *TESTS]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"tests: not finished within {seconds:.0f} s"
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    return f"tests ({', '.join(TESTS)}): {last}"


def main(argv: list[str] | None = None) -> int:
    """Measure as many cells as there is time for, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="that all of it may take")
    parser.add_argument("--steps", type=int, default=10, help="timed ones of each cell")
    parser.add_argument("--no-tests", dest="tests", action="store_false")
    parser.add_argument("--out", type=Path, help="Markdown file")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.minutes <= 0:
        raise ValueError("--steps must be 1 or more, --minutes above 0")
    until = time.monotonic() + 60 * args.minutes - (REST if args.tests else 0)
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    lines = [
        f"{torch.cuda.get_device_name() if cuda else platform.machine()}, {os.cpu_count()} cores,"
        f" {datetime.now(UTC):%Y-%m-%d}, torch {metrics_file.versions()['torch']}, bfloat16"
        + ("" if cuda else ", **sizes of a test**: no GPU"),
        "",
        "| step | seconds | pairs/s | TFLOP/s | % of a matrix product | peak GiB | apart |",
        "|---|---|---|---|---|---|---|",
    ]
    last = 0.0
    for options in CELLS:
        if not cuda and "compiled" in options["name"]:
            continue
        started = time.monotonic()
        if started + last > until:
            lines.append(f"| {options['name']} | no time left | | | | | |")
            continue
        try:
            found = cell(device=device, steps=args.steps, small=not cuda, **options)
            lines.append(line(found))
        except torch.OutOfMemoryError:
            lines.append(f"| {options['name']} | out of memory | | | | | |")
        if cuda:
            torch.cuda.empty_cache()
        last = time.monotonic() - started
        print(lines[-1], flush=True)
    lines += ["", "Apart: the largest difference of a weight after one step done twice from one"]
    lines += ["seed; 0 says that the bits agree."]
    if args.tests:
        lines += ["", tests(max(30.0, until + REST - time.monotonic()))]
    text = "\n".join(lines) + "\n"
    print(f"\n{text}")
    if args.out:
        atomic_write(args.out, lambda file: file.write(text.encode()))
    return 0


if __name__ == "__main__":
    cli.guard(main)
