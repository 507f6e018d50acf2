"""Peak memory and time of each objective against the batch size, in one table; and what transfer
costs beside what it is built on, as ratios, each a section of a Markdown file.

    python tools/measure/bench.py objectives --patches 64 --tokens 40 --out objectives.json
    python tools/measure/bench.py train configs/quickstart/det.py --out docs/results/throughput.md
    python tools/measure/bench.py cached configs/camvid/linear_cached.py --out throughput.md
    python tools/measure/bench.py evaluation --out docs/results/throughput.md

A cell of `objectives` is one forward and backward pass of the objective alone, on random features,
in a process of its own. Repeats are interleaved, so that a busy machine is busy for all. On a GPU
when there is one; on a CPU on one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking must not spoil the forks

import torch
from torch import Tensor

from sparc_pretrain import metrics_file
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.command import cli
from sparc_pretrain.pretraining.pretrainer import fill_in
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features

ROWS = {
    "clip": dict(type="Clip"),
    "siglip": dict(type="Siglip"),
    "sparc": dict(type="Sparc"),
    "mgca": dict(type="Mgca"),
    "pacl": dict(type="Pacl"),
    "filip": dict(type="Filip"),
    "gloria": dict(type="Gloria"),
    "filip, all at once": dict(type="Filip", block=None),
    "gloria, all at once": dict(type="Gloria", block=None),
}
MIB = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
# sub-command -> heading of its section, default config
RATIOS = {
    "train": ("Training against the library's own train.py", "configs/quickstart/det.py"),
    "cached": ("Cached features of a frozen backbone", "configs/camvid/linear_cached.py"),
    "evaluation": ("Evaluation against pycocotools and lvis-api", None),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    objectives = what.add_parser("objectives", help="memory and time against the batch size")
    objectives.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    objectives.add_argument("--rows", nargs="+", default=list(ROWS), metavar="ROW")
    objectives.add_argument("--patches", type=int, default=196, help="ViT-B/16 at 224 px: 196")
    objectives.add_argument("--tokens", type=int, default=55, help="longest caption; shortest: 1/2")
    objectives.add_argument("--width", type=int, default=512, help="of the shared space")
    objectives.add_argument("--repeats", type=int, default=3)
    objectives.add_argument("--limit-gb", type=float, default=6.0, help="a cell may take so much")
    objectives.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is")
    objectives.add_argument("--out", help="also write everything as JSON to this file")
    for name, (heading, default) in RATIOS.items():
        ratio = what.add_parser(name, help=heading)
        if default:
            ratio.add_argument("config", nargs="?", default=default)
            ratio.add_argument("--steps", type=int, default=20, help="of each training")
            ratio.add_argument("--warmup", type=int, default=5, help="steps that do not count")
            ratio.add_argument("--batch", type=int, help="default: the config's")
        else:
            ratio.add_argument("--images", type=int, default=1000)
            ratio.add_argument("--detections", type=int, default=100, help="an image; LVIS: x3")
        ratio.add_argument("--repeats", type=int, default=3)
        ratio.add_argument("--out", help="Markdown file whose section is written anew")
    return parser.parse_args(argv)


def random_features(args: argparse.Namespace, size: int) -> tuple[Features, Batch]:
    """Features of `size` pairs that want a gradient, captions of half to full length."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(args.device).requires_grad_()

    lengths = torch.randint(max(1, args.tokens // 2), args.tokens + 1, (size, 1))
    mask = (torch.arange(args.tokens) < lengths).to(args.device)
    special, empty = torch.zeros_like(mask), torch.zeros(size, 0)
    features = Features(
        image=draw(size, args.width),
        patches=draw(size, args.patches, args.width),
        patch_states=empty,
        text=draw(size, args.width),
        tokens=draw(size, args.tokens, args.width),
        mask=mask,
        special=special,
        token_states=empty,
    )
    return features, Batch(empty, mask.long(), mask, special, [""] * size)


def step(objective: torch.nn.Module, features: Features, batch: Batch) -> None:
    """One forward and backward pass."""
    losses = objective(features, batch)
    sum(value for key, value in losses.items() if key.endswith("_loss")).backward()


def cell(
    args: argparse.Namespace, row: str, size: int, exact: bool = False
) -> dict[str, float] | None:
    """Peak memory in MiB above the features, and seconds, of one step; None = over the limit.

    On a CPU the seconds are those of the processor, which other work on the machine leaves alone.
    `exact`: what is freed goes back at once, which costs time; else glibc keeps a part of it, by
    which the peak of the resident set is too high.
    """
    if exact:
        for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(name, 2**16)
    torch.manual_seed(0)
    objective = OBJECTIVES.build(fill_in(ROWS[row], width=args.width)).to(args.device)
    step(objective, *random_features(args, 2))  # kernels are loaded, buffers made
    features, batch = random_features(args, size)
    on_gpu = args.device == "cuda"
    limit = int(args.limit_gb * 1e9)
    if on_gpu:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        used = memory("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = memory("VmRSS")
    clock: Callable[[], float] = time.perf_counter if on_gpu else time.process_time
    start = clock()
    try:
        step(objective, features, batch)
    except RuntimeError as error:  # torch's allocators; OutOfMemoryError is one
        if "memory" not in str(error):
            raise
        return None
    if on_gpu:
        torch.cuda.synchronize()
    seconds = clock() - start
    peak = torch.cuda.max_memory_allocated() if on_gpu else memory("VmHWM")
    return {"peak_mib": (peak - before) / MIB, "seconds": seconds}


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def in_a_child(
    args: argparse.Namespace, row: str, size: int, exact: bool
) -> dict[str, float] | None:
    """`cell` in a process of its own, whose peak is no other cell's."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def work(pipe: Connection) -> None:
        pipe.send(cell(args, row, size, exact))

    child = context.Process(target=work, args=(theirs,))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise ValueError(f"{row} at a batch of {size} failed, see above") from None
    finally:
        child.join()


def both(args: argparse.Namespace, row: str, size: int) -> dict[str, float] | None:
    """Memory and seconds; on a CPU from a process each, since what makes one exact costs time."""
    timed = in_a_child(args, row, size, exact=False)
    if timed is None or args.device == "cuda":
        return timed
    exact = in_a_child(args, row, size, exact=True)
    return exact and {**timed, "peak_mib": exact["peak_mib"]}


def measure(args: argparse.Namespace) -> dict[str, dict[int, dict[str, float] | None]]:
    """row -> batch size -> median peak and least seconds over the repeats, or None."""
    cells = [(row, size) for row in args.rows for size in args.batches]
    found: dict[tuple[str, int], list] = {key: [] for key in cells}
    for repeat in range(args.repeats):
        for key in cells:
            if None not in found[key]:
                found[key].append(both(args, *key))
        print(f"repeat {repeat + 1} of {args.repeats} done", flush=True)
    table: dict[str, dict[int, dict[str, float] | None]] = {row: {} for row in args.rows}
    for (row, size), runs in found.items():
        table[row][size] = None if None in runs else {
            "peak_mib": statistics.median(run["peak_mib"] for run in runs),
            "seconds": min(run["seconds"] for run in runs),
        }  # fmt: skip
    return table


def markdown(table: dict, batches: list[int], value: str, digits: int, limit: str) -> str:
    """One value of every cell, and the factor between the two largest batches that ran."""
    lines = ["| objective | " + " | ".join(map(str, batches)) + " | last step |"]
    lines.append("|---|" + "---:|" * (len(batches) + 1))
    for row, cells in table.items():
        shown = [f"{cells[b][value]:.{digits}f}" if cells[b] else limit for b in batches]
        ran = [cells[b][value] for b in batches if cells[b]]
        factor = f"x{ran[-1] / ran[-2]:.1f}" if len(ran) > 1 and ran[-2] > 0 else ""
        lines.append(f"| {row} | " + " | ".join(shown) + f" | {factor} |")
    return "\n".join(lines)


def ratios(args: argparse.Namespace) -> int:
    """Measure a ratio of transfer, print it, and write its section."""
    import evaluation  # these import mmcv: seconds that the objectives do without
    import training
    from ratios import put_section

    sizes = ("steps", "warmup", "batch", "images", "detections", "repeats")
    if min(value for name in sizes if (value := getattr(args, name, None)) is not None) < 1:
        raise ValueError("sizes and --repeats must be 1 or more")
    if getattr(args, "steps", 2) < getattr(args, "warmup", 0) + 2:
        raise ValueError("--steps must be --warmup + 2 or more: what lies between steps is timed")
    measures = dict(
        train=training.train,
        cached=training.cached,
        evaluation=evaluation.evaluation,
    )
    found = measures[args.what](args)
    made = f"{platform.machine()}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}; "
    made += ", ".join(f"{name} {value}" for name, value in metrics_file.versions().items() if value)
    section = f"{found}\n\n{made}."
    print(f"\n{section}")
    if args.out:
        put_section(Path(args.out), RATIOS[args.what][0], section)
        print(f"\nwritten to {args.out}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Measure, print two tables, and write the JSON; or one of the `ratios`."""
    args = parse(argv)
    if args.what in RATIOS:
        return ratios(args)
    unknown = [row for row in args.rows if row not in ROWS]
    if unknown:
        raise ValueError(f"--rows {unknown[0]!r} is unknown; there are {list(ROWS)}")
    if min([*args.batches, args.patches, args.tokens, args.width, args.repeats]) < 1:
        raise ValueError("sizes and --repeats must be 1 or more")
    args.batches = sorted(args.batches)
    torch.set_num_threads(1)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    table = measure(args)
    result: dict[str, Any] = {
        "sizes": {k: getattr(args, k) for k in ("patches", "tokens", "width", "repeats")},
        "device": args.device,
        "limit_gb": args.limit_gb,
        "versions": metrics_file.versions(),
        "cells": table,
    }
    limit = f"> {args.limit_gb:g} GB"
    print("\nPeak memory in MiB above the features, against the batch size\n")
    print(markdown(table, args.batches, "peak_mib", 0, limit))
    print("\nSeconds of one forward and backward pass\n")
    print(markdown(table, args.batches, "seconds", 3, limit))
    if args.out:
        text = json.dumps(result, indent=1).encode()
        atomic_write(Path(args.out), lambda file: file.write(text))
        print(f"\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    cli.guard(main)
