"""The stand-in for mmcv's kernels beside plain PyTorch and, where there is one, compiled mmcv.

python tools/measure/ops_report.py --out docs/results/ops.md [--compiled PATH/_ext.so --built HOW]

Writes which ops mmdet and mmseg call, and for each the time on this CPU (one thread, forward and
backward, rounds interleaved so that a busy machine is busy for all) and the greatest differences.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch
import torchvision
from ops_coverage import COVERAGE, NOT_NEEDED, WITHOUT_KERNEL
from torch import Tensor, distributed
from torch.nn import functional

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.command import cli
from transfer.mm import ops

Call = Callable[[], Sequence[Tensor]]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def boxes(number: int, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(number, 2, generator=generator) * size * 0.7
    return torch.cat([corner, corner + torch.rand(number, 2, generator=generator) * size * 0.3], 1)


def trained(function: Callable[..., Tensor], *inputs: Tensor) -> Call:
    """A call that returns the value and the gradients with respect to `inputs`."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]

    def call() -> list[Tensor]:
        value = function(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves, torch.ones_like(value))]

    return call


def naive_carafe(features: Tensor, masks: Tensor) -> Tensor:
    """With the k*k neighbours of every cell in memory."""
    images, channels, height, width = features.shape
    around = functional.unfold(features, 5, padding=2).view(images, channels * 25, height, width)
    around = functional.interpolate(around, scale_factor=2).view(
        images, channels, 25, *masks.shape[2:]
    )
    return (around * masks[:, None]).sum(2)


def cases(mm: ModuleType) -> dict[str, tuple[str, Call, tuple[str, Call] | None]]:
    """Op -> (size in words, the call through mmcv, (name, call) of the plain one or None)."""
    attention = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    box, score = boxes(1000, 512), torch.rand(1000, generator=torch.Generator().manual_seed(2))
    rois = torch.cat([torch.zeros(128, 1), boxes(128, 512)], 1)
    maps, small = random(1, 64, 32, 32), random(1, 32, 16, 16)
    x, weight, offset = random(2, 32, 24, 24), random(32, 32, 3, 3, seed=1), random(2, 18, 24, 24)
    gate = random(2, 9, 24, 24, seed=2).sigmoid()
    logits, label = random(2000, 80), torch.randint(0, 81, (2000,))
    onehot = functional.one_hot(label, 81)[:, :80].float()
    shapes, starts = torch.tensor([[16, 16], [8, 8]]), torch.tensor([0, 256])
    value, where = random(1, 320, 8, 32), random(1, 320, 8, 2, 4, 2, seed=1).sigmoid()
    share = random(1, 320, 8, 8, seed=2).softmax(-1).view(1, 320, 8, 2, 4)
    kernels = random(1, 25, 32, 32, seed=1).softmax(1)
    masks = random(1, 31 * 31, 16, 16)
    chosen = random(1, 32, 32, seed=3) > 0
    conv = mm.MaskedConv2d(64, 64, 3, padding=1).requires_grad_(False)
    norm, plain_norm = mm.SyncBatchNorm(32), torch.nn.BatchNorm2d(32)
    lanes = random(192, 77).abs()
    vision = torchvision.ops

    def match() -> list[Tensor]:
        groups = mm.nms_match(torch.cat([box, score[:, None]], 1), 0.5)
        return [torch.cat([torch.as_tensor(group) for group in groups])]

    def deform(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return mm.deform_conv2d(x, offset, weight, 1, 1)

    def attend(value: Tensor, where: Tensor, share: Tensor) -> Tensor:
        return attention.MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, where, share, 64
        )

    return {
        "nms": ("1000 boxes", lambda: [mm.nms(box, score, 0.5)[1]],
                ("torchvision nms", lambda: [vision.nms(box, score, 0.5)])),
        "softnms": ("1000 boxes", lambda: list(mm.soft_nms(box, score)), None),
        "nms_match": ("1000 boxes", match, None),
        "line_nms": ("192 lanes", lambda: list(mm.line_nms(lanes, score[:192], 0.9, 50)), None),
        "roi_align": ("64x32x32, 128 regions, 7x7", trained(lambda m: mm.roi_align(
            m, rois, (7, 7), 1 / 16, 0, "avg", True), maps),
            ("torchvision roi_align", trained(lambda m: vision.roi_align(
                m, rois, 7, 1 / 16, 0, True), maps))),
        "deform_roi_pool": ("the same", trained(lambda m, o: mm.deform_roi_pool(
            m, rois, o, (7, 7), 1 / 16), maps, random(128, 2, 7, 7)),
            ("torchvision roi_align (no offsets)",
             trained(lambda m: vision.roi_align(m, rois, 7, 1 / 16, 0, True), maps))),
        "deform_conv": ("2x32x24x24, 3x3", trained(deform, x, offset, weight),
                        ("torchvision deform_conv2d", trained(lambda x, o, w: vision.deform_conv2d(
                            x, o, w, padding=1), x, offset, weight))),
        "modulated_deform_conv": (
            "the same", trained(lambda x, o, g, w: mm.modulated_deform_conv2d(
                x, o, g, w, None, 1, 1), x, offset, gate, weight),
            ("torchvision deform_conv2d", trained(lambda x, o, g, w: vision.deform_conv2d(
                x, o, w, padding=1, mask=g), x, offset, gate, weight))),
        "ms_deform_attn": ("320 queries, 8 heads, 2 levels, 4 points",
                           trained(attend, value, where, share),
                           ("mmcv's PyTorch path", trained(
                               lambda v, w, s: attention.multi_scale_deformable_attn_pytorch(
                                   v, shapes, w, s), value, where, share))),
        "sigmoid_focal_loss": ("2000x80", trained(lambda z: mm.sigmoid_focal_loss(
            z, label, 2.0, 0.25, None, "sum"), logits),
            ("torchvision sigmoid_focal_loss", trained(lambda z: vision.sigmoid_focal_loss(
                z, onehot, reduction="sum"), logits))),
        "carafe": ("32x16x16 to 32x32, 5x5", trained(
            lambda f, m: mm.carafe(f, m, 5, 1, 2), small, kernels),
            ("plain PyTorch: unfold, weigh, sum", trained(naive_carafe, small, kernels))),
        "masked_im2col, masked_col2im": (
            "64x32x32, half of the places", lambda: [conv(maps, chosen)],
            ("the whole convolution, then the mask", lambda: [conv(maps) * chosen[:, None]])),
        "psamask": ("31x31 masks on 16x16", trained(mm.PSAMask("collect", (31, 31)), masks), None),
        "sync_bn": ("2x32x24x24", trained(norm, x),
                    ("torch BatchNorm2d", trained(plain_norm, x))),
    }  # fmt: skip


def timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def differences(one: Sequence[Tensor], other: Sequence[Tensor]) -> str:
    """The greatest absolute differences of value and gradients, as one cell of the table."""
    if not one[0].is_floating_point():
        return "same indices" if torch.equal(one[0], other[0]) else "other indices"
    found = [(a.double() - b.double()).abs().max().item() for a, b in zip(one, other, strict=True)]
    return f"{found[0]:.1e}" + (f" / {max(found[1:]):.1e}" if found[1:] else "")


def measure(rounds: int, compiled: ModuleType | None) -> list[str]:
    """The rows of the table of times and differences."""
    import mmcv.ops

    rows = []
    with ops.using("standin"):
        table = cases(mmcv.ops)
    for name, (size, call, plain) in table.items():
        kernels = next(row.kernels for row in COVERAGE if row.name == name)
        runs: dict[str, list[float]] = {"ours": [], "plain": [], "compiled": []}
        differ = "-"
        # mmcv's own kernels for the CPU; the others exist for CUDA only.
        has_kernel = compiled is not None and all(hasattr(compiled, kernel) for kernel in kernels)
        for turn in range(rounds + 1):  # the first warms up
            with ops.using("standin"):
                ours, seconds = call(), timed(call)
            runs["ours"] += [seconds] * bool(turn)
            if plain is not None:
                runs["plain"] += [timed(plain[1])] * bool(turn)
            if has_kernel:
                sys.modules[ops.EXTENSION] = compiled
                with ops.using("compiled"):
                    theirs, seconds = call(), timed(call)
                differ = differences(ours, theirs)
                runs["compiled"] += [seconds] * bool(turn)
        middle = {key: statistics.median(found) for key, found in runs.items() if found}
        ratio = f"{middle['ours'] / middle['plain']:.2f}" if plain else "-"
        beside = f"{middle['ours'] / middle['compiled']:.2f}" if has_kernel else "-"
        cells = [name, size, f"{middle['ours'] * 1e3:.2f} ms", plain[0] if plain else "-", ratio]
        rows.append("| " + " | ".join([*cells, differ, beside]) + " |")
        print(rows[-1], flush=True)
    return rows


def document(rows: list[str], rounds: int, compiled: bool, built: str) -> str:
    """The whole page."""
    coverage = [
        f"| {row.name} | {', '.join(f'`{kernel}`' for kernel in row.kernels)} | {row.users} | "
        f"{row.values} | {row.gradients} | not run |"
        for row in COVERAGE
    ]
    against = f"mmcv's CPU kernels ({built})" if compiled else "not run (no compiled mmcv given)"
    return "\n".join(
        [
            "# mmcv's ops without a compiler",
            "",
            "Where mmcv has no compiled kernels, `transfer/mm/ops` answers for `mmcv._ext`; a",
            "compiled one that loads always wins. Written by `python tools/measure/ops_report.py`;",
            "tests: `tests/transfer/mm/test_ops.py` and `test_ops_feature_maps.py`. Half types are",
            "computed in float32 and cast back. The layers (DCN, DCNv2, SAC, CARAFE, PSAMask,",
            "MaskedConv2d, the deformable RoI packs, deformable and criss-cross attention,",
            "CornerPool) run under autocast in float16 and bfloat16 on the CPU (tested); mmcv's",
            "own MMSyncBN takes no bfloat16 on any device.",
            "",
            "## What mmdet and mmseg call",
            "",
            "| op | kernels of `mmcv._ext` | used by | values against | gradients against | CUDA |",
            "|---|---|---|---|---|---|",
            *coverage,
            "",
            "In use, but without a kernel of their own in this mmcv:",
            "",
            *[f"- {line}" for line in WITHOUT_KERNEL],
            "",
            *NOT_NEEDED,
            "",
            "## Time and difference, one run",
            "",
            f"{platform.machine()}, one thread, float32, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}; medians of {rounds} interleaved rounds; forward and",
            "backward where the op has one. Ratio: our time through mmcv over the other's.",
            f"Compiled: {against}; the greatest absolute difference of value / gradients",
            "(`-` where mmcv has that kernel for CUDA only).",
            "",
            "| op | size | ours | beside | ratio | difference from compiled | ratio to compiled |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def load(path: Path) -> ModuleType:
    """Returns the extension at `path`; raises FileNotFoundError or ImportError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the _ext*.so of a compiled mmcv")
    spec = importlib.util.spec_from_file_location(ops.EXTENSION, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not an extension module; give the _ext*.so of a compiled mmcv")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results/ops.md"))
    parser.add_argument("--compiled", type=Path, help="the _ext*.so of a compiled mmcv")
    parser.add_argument("--built", default="as given", help="how it was compiled, for the page")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if options.rounds < 1:
        raise ValueError(f"--rounds {options.rounds}: must be at least 1")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    compiled = load(options.compiled) if options.compiled else None
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    rows = measure(options.rounds, compiled)
    text = document(rows, options.rounds, compiled is not None, options.built)
    distributed.destroy_process_group()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(options.out, lambda file: file.write(text.encode()))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    cli.guard(main)
