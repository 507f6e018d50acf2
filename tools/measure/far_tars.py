"""A loader of tars at an address against the same tars on disk: its rate there in its rate here."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from range_server import elsewhere
from ratios import Work
from torch.utils.data import DataLoader

from sparc_pretrain.data.dataset import PairDataset, collate
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer

PHOTO = (640, 480)  # pixels
TARS = 4
CAPTION = "a red kite above a grey harbour in the morning"


def remote(args: argparse.Namespace) -> tuple[Work, Work, str]:
    """Batches of photographs in one random order, read by `args.workers` processes, or by this one.

    A is the disk, B the address: seconds of A / B is the rate from the address in that from disk.
    """
    held = ExitStack()
    atexit.register(held.close)
    folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
    os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), NO_PROXY="127.0.0.1")
    count = args.batches * args.batch
    per_tar = -(-count // TARS)
    paths = write_shards(photographs(count), folder / "tars", shard_size=per_tar)
    server = held.enter_context(elsewhere(folder, args.latency / 1000))
    tokenizer = Tokenizer.train([CAPTION], 300)
    here = [str(path) for path in paths]
    near, far = (
        PairDataset([dict(shards=shards)], tokenizer, args.size)
        for shards in (here, [f"{server}/tars/{path.name}" for path in paths])
    )
    if near.fingerprint != far.fingerprint:
        raise ValueError("the tars differ")
    order = np.random.default_rng(0).permutation(count).tolist()
    coming = order[args.batch * max(1, args.workers) :]  # as training tells its loader
    items = [(n, 0, later) for n, later in zip(order, coming, strict=False)]
    items += [(n, 0) for n in order[len(items) :]]
    own = dict(multiprocessing_context="forkserver") if args.workers else {}
    own |= dict(num_workers=args.workers, persistent_workers=args.workers > 0)

    def of(data: PairDataset) -> Work:
        loader = DataLoader(data, args.batch, sampler=items, collate_fn=collate, **own)

        def work() -> None:
            assert sum(len(batch) for batch in loader) == count

        return work

    who = f"{args.workers} workers" if args.workers else "no workers"
    named = f"rate of tars at {args.latency:g} ms / on disk, {count} photographs, {who}, by clock"
    return of(near), of(far), named


def photographs(count: int) -> Iterator[tuple[str, bytes, str, list[str]]]:
    """JPEGs with as many bytes as photographs have: coarse colours under fine noise."""
    generator = np.random.default_rng(0)
    for n in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize(PHOTO, Image.Resampling.BICUBIC))
        noise = generator.normal(0, 6, pixels.shape)
        whole = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
        whole.save(data := io.BytesIO(), "JPEG", quality=85)
        yield f"{n:06d}", data.getvalue(), "jpg", [f"{CAPTION} {n}"]
