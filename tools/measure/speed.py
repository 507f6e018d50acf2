"""What is fast and what it is compared with, a command per claim: the ratio, its spread, and the
same thing against itself.

    python tools/measure/speed.py step            a SPARC step / a CLIP step; --objective sparc_ic
    python tools/measure/speed.py fused --objective xvlm     its step on pairs / a SPARC step
    python tools/measure/speed.py draws --objective xvlm     what a step draws / the step
    python tools/measure/speed.py loss            the fine-grained loss / its formula line by line
    python tools/measure/speed.py filip           FILIP's loss / SPARC's; --objective sparc_cc
    python tools/measure/speed.py accumulate      eight micro-batches / one batch
    python tools/measure/speed.py index           finding the samples of a tar / tarfile
    python tools/measure/speed.py checkpoint      standstill for a save in the background / at once
    python tools/measure/speed.py iou             areas of a label map / mmseg's
    python tools/measure/speed.py contrast        InfoNCE in blocks / whole: time, and peak memory
    python tools/measure/speed.py remote          rate of a loader of tars at 20 ms / on disk

Evaluation, cached features, training and the objectives' memory: bench.py. A ratio counts when A
against itself is within 3 %; else the line says void.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import sys
import tarfile
import tempfile
import time
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, memory, random_features
from evaluation import timed
from far_tars import remote
from ratios import Work, compare
from steps import VOCABULARY, Step, operations

from sparc_pretrain.command import cli
from sparc_pretrain.data.tar_scan import scan
from sparc_pretrain.engine import checkpoint
from sparc_pretrain.engine.writer import Writer
from sparc_pretrain.objectives.contrastive import info_nce
from sparc_pretrain.objectives.sparc import Sparc, fine_grained_loss
from sparc_pretrain.registry import OBJECTIVES

OBJECTIVE = {
    "sparc": dict(type="Sparc"),
    "sparc_ic": dict(type="Sparc", image_contrast=1.0),
    "sparc_cc": dict(
        type="Sparc", local_weight=0, image_contrast=1.0, image_negatives=31, contrast_of="captions"
    ),
    "siglip": dict(type="Siglip"),
}
HEADS = {"vit_small": 6, "vit_base": 12}  # of text and fusion, as of the vision tower; else 3
# objectives with a fusion encoder: blocks of text and of fusion in the place of six of SPARC's
# text, boxes of an image, and what else they are told
FUSED = {
    "xvlm": (3, 3, 0, dict(type="Xvlm")),
    "xvlm_boxes": (3, 3, 4, dict(type="Xvlm")),
    "uniter": (0, 6, 36, dict(type="Uniter", tasks=dict(itm=2, mlm=2, mrfr=1))),
    "oscar": (0, 6, 36, dict(type="Oscar")),
    "kaleido": (0, 6, 0, dict(type="Kaleido", patch_px=32)),
}


def step(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Same towers, batch, captions and optimizer."""
    if args.objective not in OBJECTIVE:
        raise ValueError(f"step --objective {args.objective}: use the row fused")
    sizes = _sizes(args)
    ours, clip = Step(OBJECTIVE[args.objective], **sizes), Step(dict(type="Clip"), **sizes)
    return ours, clip, f"{args.objective} step / CLIP step, {args.arch}, {_pairs(args)}"


def accumulate(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """The same batch and gradients."""
    sizes = _sizes(args)
    parts, whole = (Step(dict(type="Sparc"), accumulate=n, **sizes) for n in (8, 1))
    return parts, whole, f"8 micro-batches / 1 batch of {_pairs(args)}"


def fused(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Equal vision towers, as many blocks over words; UNITER by its tasks in turn."""
    ours, sparc = _fused(args), Step(OBJECTIVE["sparc"], **_sizes(args))
    counted = operations(ours) / operations(sparc)
    named = f"{args.objective} step / SPARC step ({counted:.2f} of its operations), {args.arch}"
    return ours, sparc, f"{named}, {_pairs(args)}"


def draws(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Masks, negatives, corruptions: all that a step draws before it is computed."""
    step = _fused(args)
    named = f"what {args.objective} draws / its step, {args.arch}, {_pairs(args)}"
    return lambda: step.model.with_views(step.batch), step, named


def _fused(args: argparse.Namespace) -> Step:
    if args.objective not in FUSED:
        raise ValueError(f"--objective {args.objective}: use one of {', '.join(FUSED)}")
    layers, fusion, boxes, told = FUSED[args.objective]
    sizes = _sizes(args)
    width, _, heads = sizes["text"]
    words = dict(mask_id=VOCABULARY - 1, word_ids=[3, VOCABULARY - 1])
    objective = told | words | dict(fusion=dict(layers=fusion, heads=heads, dropout=0.0))
    if args.objective == "uniter":
        objective["labels"] = [str(n) for n in range(20)]
    return Step(objective, **sizes | dict(text=(width, layers, heads), boxes=boxes))


def _pairs(args: argparse.Namespace) -> str:
    return f"{args.batch} pairs, {'bfloat16' if args.amp else 'float32'}"


def _sizes(args: argparse.Namespace) -> dict:
    overrides = dict(depth=args.depth) if args.depth else None
    names = ("arch", "size", "batch", "tokens", "amp")
    heads = next((n for name, n in HEADS.items() if args.arch.startswith(name)), 3)
    own = {name: getattr(args, name) for name in names}
    return {**own, "overrides": overrides, "text": (64 * heads, 6, heads)}


def loss(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Forward and backward on random features."""
    features, batch = random_features(args, args.batch)
    objective = Sparc(global_weight=0.0)

    def ours() -> None:
        objective.paired(features, batch, batch)["local_loss"].backward()

    def literal() -> None:
        scale = objective.temperature()
        fine_grained_loss(features.patches, features.tokens, features.mask, scale).backward()

    return ours, literal, f"fine-grained loss / line by line, {args.batch} pairs"


def filip(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Forward and backward of both objectives on random features."""
    features, batch = random_features(args, args.batch)

    def of(config: dict) -> Work:
        objective = OBJECTIVES.build(config)

        def work() -> None:
            losses = objective(features, batch)
            sum(value for key, value in losses.items() if key.endswith("_loss")).backward()

        return work

    what = f"loss of FILIP / of {args.objective}, {args.batch} pairs"
    return of(dict(type="Filip")), of(OBJECTIVE[args.objective]), what


def index(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """One tar of small pairs, in the page cache."""
    path = Path(tempfile.mkdtemp()) / "pairs.tar"
    with tarfile.open(path, "w") as tar:
        for n in range(args.members // 2):
            for kind, size in (("jpg", 3000), ("txt", 60)):
                info = tarfile.TarInfo(f"{n:08d}.{kind}")
                info.size = size
                tar.addfile(info, io.BytesIO(bytes(size)))

    def ours() -> None:
        started = time.process_time()
        assert len(scan(path).rows) == args.members // 2
        took = 1e6 * (time.process_time() - started) / args.members
        print(f"  {took:.2f} microseconds of CPU per member", flush=True)

    def theirs() -> None:
        with tarfile.open(path) as tar:
            assert sum(member.isfile() for member in tar) == args.members

    return ours, theirs, f"scan / tarfile, {args.members} members"


def saving(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """What the step loop waits for; the thread's own work is waited for outside of the clock."""
    path = Path(tempfile.mkdtemp()) / "iter_1.pth"
    count = max(1, int(args.gigabytes * 2**30 / 4 / 16))
    state = {"meta": {"iter": 1}, "weights": {str(n): torch.randn(count) for n in range(16)}}
    background, at_once = Writer(background=True), Writer()

    def save(writer: Writer) -> tuple[float, float]:
        started = time.perf_counter(), time.thread_time()
        held = writer.own(state)
        writer.do(lambda: checkpoint.save(held, path))
        writer.forget()
        stood = time.perf_counter() - started[0], time.thread_time() - started[1]
        writer.wait()
        if failure := writer.failure():
            raise failure
        return stood

    named = f"standstill of a save in the background / at once, {args.gigabytes:g} GiB"
    return lambda: save(background), lambda: save(at_once), named


def iou(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """150 classes, label maps as large as an image of ADE20K."""
    from transfer.mm import mean_iou as ours  # before mmseg, which needs mmcv's ops

    metric = import_module("mmseg.evaluation.metrics.iou_metric").IoUMetric
    ours.mend_mean_iou()
    theirs = metric.intersect_and_union.original
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(0, 150, (512, 683), generator=generator) for _ in range(2)]
    found, wanted = ours.areas(*maps, 150, 255), theirs(*maps, 150, 255)
    if not all(torch.equal(a.double(), b.double()) for a, b in zip(found, wanted, strict=True)):
        raise ValueError("the areas differ")
    return (lambda: ours.areas(*maps, 150, 255)), (lambda: theirs(*maps, 150, 255)), "areas / mmseg"


def contrast(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Forward and backward; the peak is of a process of its own."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, 512)
    image, text = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))

    def of(block: int) -> Work:
        return lambda: info_nce(image, text, 10.0, block).backward()

    works = of(2**23 if args.batch > 4096 else args.batch**2 // 8), of(args.batch**2)
    peaks = [timed(lambda w=w: _peak(w))["value"] / 2**20 for w in works]
    print(f"  peak above the features: {peaks[0]:.0f} MiB in blocks, {peaks[1]:.0f} MiB whole")
    return *works, f"InfoNCE in blocks / whole, {args.batch} pairs"


def _peak(work: Work) -> int:
    """Bytes that `work` takes above what there was, where what is freed goes back at once."""
    for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        ctypes.CDLL(None).mallopt(name, 2**16)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    work()
    return memory("VmHWM") - before


ROWS = dict(
    step=step, fused=fused, draws=draws, accumulate=accumulate, loss=loss, filip=filip,
    index=index, checkpoint=saving, iou=iou, contrast=contrast, remote=remote,
)  # fmt: skip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="docs/results/throughput.md: its table")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--objective",
        choices=[*OBJECTIVE, *FUSED],
        default="sparc",
        help="of step; of fused and draws",
    )
    parser.add_argument("--arch", default="vit_tiny_patch16_224")
    parser.add_argument("--depth", type=int, help="blocks of the vision tower")
    parser.add_argument("--size", type=int, default=224, help="of an image, pixels")
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--width", type=int, default=512, help="of the shared space")
    parser.add_argument("--float32", dest="amp", action="store_false", help="no bfloat16")
    parser.add_argument("--members", type=int, default=20_000, help="of a tar")
    parser.add_argument("--latency", type=float, default=20.0, help="of the server, ms")
    parser.add_argument("--workers", type=int, default=0, help="of both loaders")
    parser.add_argument("--batches", type=int, default=10, help="of an epoch of remote")
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of a checkpoint")
    args = parser.parse_args(argv)
    args.device = "cpu"
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure one row and print it."""
    args = parse(argv)
    if min(args.repeats, args.batch, args.batches, args.members // 2) < 1:
        raise ValueError("--repeats, --batch, --batches and --members must be 1 or more")
    torch.set_num_threads(1)
    a, b, named = ROWS[args.row](args)
    # a save says itself how long it stood still
    tell, clock = args.row == "checkpoint", "wall" if args.row == "remote" else "cpu"
    runs = compare(a, b, named, args.repeats, tell=tell, out=args.out, clock=clock)
    if args.row == "checkpoint":
        for clock in ("wall", "cpu"):
            stood = sorted(run[clock] for run in runs["A"])[args.repeats // 2] / args.gigabytes
            print(f"standstill in the background: {stood:.2f} s of {clock} time per GiB")
    return 0


if __name__ == "__main__":
    cli.guard(main)
