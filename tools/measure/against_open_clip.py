"""A training step with its loader, and the loader alone, against open_clip's on the same tars.

    pip install open_clip_torch==3.3.0 webdataset
    python tools/measure/against_open_clip.py step 'pairs/*.tar' [--context 32] [--float32]
    python tools/measure/against_open_clip.py loader 'pairs/*.tar' [--size 128]

One thread, no workers, the same vision and text towers in size, CLIP's loss, AdamW. open_clip's
side is its own `create_model`, transform, tokenizer and loss, read through webdataset; its text is
as long as its context, ours as the longest caption of a batch.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from PIL import Image
from ratios import compare
from steps import Step
from torch.utils.data import DataLoader

from sparc_pretrain.command import cli
from sparc_pretrain.data.dataset import PairDataset, collate
from sparc_pretrain.data.sampler import PairSampler
from sparc_pretrain.data.tokenizer import Tokenizer

WIDTH, LAYERS, HEADS, VOCABULARY = 192, 6, 3, 49_408
PHOTOS = 200  # whose pixels are compared


def batches(args: argparse.Namespace) -> Iterator[Any]:
    """Ours, endless."""
    data = PairDataset(args.tars, Tokenizer.open_clip(), args.size, args.context)
    sampler = PairSampler(data, seed=0, global_batch=args.batch)
    return iter(DataLoader(data, args.batch, sampler=sampler, collate_fn=collate))


def their_batches(args: argparse.Namespace) -> Iterator[Any]:
    """As open_clip_train.data does: shuffled shards and samples, its transform, its tokenizer."""
    import open_clip
    import webdataset

    transform = open_clip.image_transform(args.size, is_train=True)
    tokenize = open_clip.SimpleTokenizer(context_length=args.context)

    def ids(text: Any) -> torch.Tensor:
        return tokenize(text if isinstance(text, str) else text["captions"][0])[0]

    data = (
        webdataset.WebDataset(sorted(glob(args.tars)), shardshuffle=100, repeat=True)
        .shuffle(1000)
        .decode("pilrgb")
        .rename(image="jpg;png;jpeg;webp", text="txt;json")
        .map_dict(image=transform, text=ids)
        .to_tuple("image", "text")
        .batched(args.batch)
    )
    return iter(webdataset.WebLoader(data, batch_size=None))


def step(args: argparse.Namespace) -> tuple[Callable, Callable, str]:
    """Pairs a second are the inverse of the ratio: both do `batch` pairs."""
    import open_clip

    names = ("size", "batch", "amp")
    ours = Step(
        dict(type="Clip"),
        text=(WIDTH, LAYERS, HEADS),
        tokens=args.context,
        vocabulary=VOCABULARY,
        **{name: getattr(args, name) for name in names},
    )
    own = batches(args)

    def one() -> None:
        ours.batch = next(own)
        ours()

    torch.manual_seed(0)
    vision = dict(image_size=args.size, layers=12, width=WIDTH, head_width=64, patch_size=16)
    text = dict(context_length=args.context, vocab_size=VOCABULARY, width=WIDTH, heads=HEADS)
    model = open_clip.CLIP(WIDTH, vision, dict(text, layers=LAYERS)).train()
    loss, theirs = open_clip.ClipLoss(), their_batches(args)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=0.2), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)

    def other() -> None:
        image, ids = next(theirs)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
            features = model(image, ids)
            total = loss(*features)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)

    precision = "bfloat16" if args.amp else "float32"
    return one, other, f"step / open_clip's, {args.batch} pairs, {args.context} tokens, {precision}"


def loader(args: argparse.Namespace) -> tuple[Callable, Callable, str]:
    """Batches as a step takes them; ours are uint8, which the step normalises."""
    import open_clip

    ours, theirs = batches(args), their_batches(args)
    # squashed: crops differ by parts of a pixel, as theirs come after the resizing
    place = dict(train=False, resize="squash")
    data = PairDataset(args.tars, Tokenizer.open_clip(), args.size, args.context, **place)
    transform = open_clip.image_transform(
        args.size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode="squash"
    )
    found = []
    for n in range(min(PHOTOS, len(data))):
        wanted = transform(photo(data, n)) * 255
        found.append((data[n]["image"].double() - wanted).square().mean().clamp(min=1e-9))
    decibels = (10 * (255**2 / torch.stack(found)).log10()).sort().values
    print(f"  squashed pixels against theirs, {len(found)} photographs: ", end="")
    print(f"{decibels.median():.1f} dB the median, {decibels[0]:.1f} the least, ", end="")
    print(f"{100 * (decibels < 60).double().mean():.0f} % below 60")
    return lambda: next(ours), lambda: next(theirs), f"loader / webdataset's, {args.size} px"


def photo(data: PairDataset, n: int) -> Image.Image:
    """The photograph n as PIL reads it."""
    return Image.open(io.BytesIO(data.shard_sets[0].read(n).image)).convert("RGB")


ROWS = dict(step=step, loader=loader)


def main(argv: list[str] | None = None) -> int:
    """Measure one row and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("tars", help="a pattern: image and .txt or .json of each pair")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, help="docs/results/throughput.md: its table")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="of an image, pixels")
    parser.add_argument("--context", type=int, default=77, help="longest caption, tokens")
    parser.add_argument("--float32", dest="amp", action="store_false", help="no bfloat16")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    compare(*ROWS[args.row](args), args.repeats, out=args.out)
    return 0


if __name__ == "__main__":
    cli.guard(main)
