"""Counts that hold on any machine: tokens of text that are computed, and what each process asks of
the file system when a training of very many tars begins.

    python tools/measure/scale.py text 'pairs/*.tar' --batch 2048 --accumulate 4
    python tools/measure/scale.py start --tars 100000 --processes 4     (needs strace, takes a GB)
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from sparc_pretrain.command import cli
from sparc_pretrain.data.dataset import PairDataset
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.pretraining.accumulation import by_length
from sparc_pretrain.towers.lengths import group_cost, length_groups

ROOT = Path(__file__).parents[2]
SMALL = """
_base_ = {base!r}
tokenizer = dict(_delete_=True, load={tokenizer!r})
schedule = dict(steps=1, warmup=0)
data = dict(sources={sources!r}, global_batch={batch}, image_size=32, max_tokens=8, workers=0)
model = dict(
    vision=dict(overrides=dict(embed_dim=32, depth=1, num_heads=2)),
    text=dict(width=32, layers=1, heads=2), width=16)
"""


def text(args: argparse.Namespace) -> None:
    """Tokens that a text tower of `--width` computes for a real one, on the batches of an epoch."""
    captions = list(PairDataset.captions(args.tars))
    tokenizer = Tokenizer.train(captions[:20_000], 8000)
    lengths = torch.tensor([min(len(tokenizer.encode(c)), args.context) for c in captions])
    lengths = lengths[torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))]
    real = longest = parts = computed = 0
    for batch in lengths[: len(lengths) // args.batch * args.batch].view(-1, args.batch):
        real += int(batch.sum())
        longest += args.batch * int(batch.max())
        rows, ends = by_length(batch, args.accumulate)
        parts += sum(ends) * args.batch // args.accumulate
        for part in batch[rows].view(args.accumulate, -1):
            groups = length_groups(part, group_cost(args.width))
            computed += sum(len(of) * end for of, end in groups)
    if not real:
        raise ValueError(f"{len(lengths)} samples, fewer than --batch {args.batch}")
    named = f"{len(lengths)} captions, batches of {args.batch}, {args.accumulate} micro-batches"
    print(f"{named}; tokens for a real one:")
    print(f"  all as long as the longest of the batch  {longest / real:.2f}")
    print(f"  micro-batches of similar lengths         {parts / real:.2f}")
    print(f"  and groups of a length inside (CPU)      {computed / real:.2f}")


def start(args: argparse.Namespace) -> None:
    """Calls that name a file in the data's folder, of each process of a training of one step."""
    if not (strace := shutil.which("strace")):
        raise FileNotFoundError("strace is not installed")
    work = Path(tempfile.mkdtemp(dir=args.folder))
    tars = work / "tars"
    _tars(tars, args.tars)
    pattern = str(tars / "*.tar")
    shown = subprocess.run(
        [sys.executable, ROOT / "tools/data.py", "index", pattern], capture_output=True, text=True
    )
    if shown.returncode:
        raise RuntimeError(shown.stderr)
    Tokenizer.train(["a red star left of a blue gear"], 300).save(work)
    config = work / "small.py"
    config.write_text(
        SMALL.format(
            base=str(ROOT / "configs/quickstart/sparc.py"),
            tokenizer=str(work / "tokenizer.json"),
            sources=pattern,
            batch=4 * args.processes,
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    children, logs = [], [work / f"calls.{rank}" for rank in range(args.processes)]
    for rank, log in enumerate(logs):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=args.processes, MASTER_PORT=port)
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}}
        environment |= dict(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
        command = [strace, "-f", "-qq", "-e", "trace=%file,getdents64", "-y", "-o", log]
        command += [sys.executable, ROOT / "tools/pretrain.py", config]
        command += ["--work-dir", work / "run", "--launcher", "pytorch"]
        out = (work / f"out.{rank}").open("w")
        children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    codes = [child.wait() for child in children]
    if any(codes):
        raise RuntimeError(f"exit codes {codes}, see {work}/out.*")
    one = re.compile(re.escape(str(tars)) + r'/(tar-\d+)\.tar(?:\.index)?"(, O_RDONLY)?')
    print(f"{args.tars} tars, {args.processes} processes, one step of {4 * args.processes} pairs")
    for rank, log in enumerate(logs):
        calls = log.read_text(errors="replace")
        about = one.findall(calls)
        opened = {name for name, mode in about if mode}
        of_read = sum(name in opened for name, _ in about)
        print(f"  rank {rank}: {of_read} calls about the {len(opened)} tars it reads, ", end="")
        print(f"{len(about) - of_read} about others")
    shutil.rmtree(work)


def _tars(folder: Path, count: int) -> None:
    """`count` tars of one pair, the same but for their names."""
    picture = folder.parent / "p.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    pair = ("a", picture.read_bytes(), "png", ["a red star left of a blue gear"])
    (first,) = write_shards([pair], folder, prefix="tar-")
    body = first.read_bytes()
    for path in folder.iterdir():
        path.unlink()
    for n in range(count):
        (folder / f"tar-{n:06d}.tar").write_bytes(body)


def main(argv: list[str] | None = None) -> int:
    """Count one row and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = parser.add_subparsers(required=True, metavar="ROW")
    one = rows.add_parser("text", help="computed tokens for a real one")
    one.add_argument("tars")
    one.add_argument("--batch", type=int, default=2048)
    one.add_argument("--accumulate", type=int, default=4)
    one.add_argument("--context", type=int, default=77)
    one.add_argument("--width", type=int, default=512)
    one.set_defaults(run=text)
    two = rows.add_parser("start", help="calls to the file system")
    two.add_argument("--tars", type=int, default=100_000)
    two.add_argument("--processes", type=int, default=4)
    two.add_argument("--folder", type=Path, help="where the tars are made; default: /tmp")
    two.set_defaults(run=start)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    cli.guard(main)
