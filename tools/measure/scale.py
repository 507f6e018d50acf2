"""Counts that hold on any machine: tokens of text that are computed, and what each process asks of
the file system when a training of very many tars begins, with its time and memory; what a tar of
very many members costs.

    python tools/measure/scale.py text 'pairs/*.tar' --batch 2048 --accumulate 4
    python tools/measure/scale.py start --tars 100000 --processes 4     (needs strace, takes a GB)
    python tools/measure/scale.py members --members 1000000             (one tar, takes a GB)
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sparc_pretrain.command import cli
from sparc_pretrain.data.dataset import PairDataset
from sparc_pretrain.data.shard_index import index_file
from sparc_pretrain.data.shards import ShardSet, write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.pretraining.accumulation import by_length
from sparc_pretrain.towers.lengths import group_cost, length_groups

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
SMALL = """
_base_ = {base!r}
custom_imports = dict(imports=["step_clock"])
custom_hooks = [dict(type="StartClockHook")]
tokenizer = dict(_delete_=True, load={tokenizer!r})
schedule = dict(steps=1, warmup=0)
data = dict(sources={sources!r}, global_batch={batch}, image_size=32, max_tokens=8, workers=0)
model = dict(
    vision=dict(overrides=dict(embed_dim=32, depth=1, num_heads=2)),
    text=dict(width=32, layers=1, heads=2), width=16)
"""
COUNTED = """
import json, re, runpy, sys, time
from pathlib import Path
main = runpy.run_path(sys.argv[1])["main"]
for tar in sys.argv[2:]:
    began = time.process_time()
    main(["index", tar])
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(json.dumps(dict(cpu=time.process_time() - began, peak_mib=int(peak) / 1024)))
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
    """Of each process of a training of one step: calls that name a file in the data's folder, the
    time to its first batch and its peak memory, beside those of a training of few tars.
    """
    if not shutil.which("strace"):
        raise FileNotFoundError("strace is not installed")
    work = Path(tempfile.mkdtemp(dir=args.folder))
    batch = 4 * args.processes
    Tokenizer.train(["a red star left of a blue gear"], 300).save(work)
    _tars(work / "few", batch)
    _tars(work / "tars", args.tars)
    began = time.perf_counter()
    _index(work / "tars")
    print(f"{args.tars} tars, indexed in {time.perf_counter() - began:.0f} s; ", end="")
    print(f"{args.processes} processes, one step of {batch} pairs", flush=True)
    few, many = (_clocked(_train(work, name, args.processes)) for name in ("few", "tars"))
    run = _train(work, "tars", args.processes, traced=True)
    for rank, (a, b) in enumerate(zip(few, many, strict=True)):
        print(f"  rank {rank}: {_calls(run / f'calls.{rank}', work / 'tars')}")
        print(f"    {_said(a, b, f'with {batch} tars')}", flush=True)
    shutil.rmtree(work)


def members(args: argparse.Namespace) -> None:
    """What `sparc data index` takes for one tar of many members, after one of few in the same
    process; whether samples drawn at random are those that tarfile finds; the start of a training.
    """
    work = Path(tempfile.mkdtemp(dir=args.folder))
    few, many = work / "few" / "pairs.tar", work / "tars" / "pairs.tar"
    _wide_tar(few, 16)
    _wide_tar(many, args.members // 2)
    a, b = _counted(few, many)
    took = 1e6 * b["cpu"] / args.members
    print(f"one tar of {args.members} members, {many.stat().st_size / 2**20:.0f} MiB")
    print(f"  index: {took:.2f} us of processor per member, ", end="")
    print(f"{index_file(many).stat().st_size / 2**20:.0f} MiB, ", end="")
    print(f"peak memory {b['peak_mib']:.0f} MiB ({a['peak_mib']:.0f} with 32 members)", flush=True)
    print(f"  {_compared(many, args.reads)} samples drawn at random are those of tarfile")
    Tokenizer.train(["a red star left of a blue gear"], 300).save(work)
    (a,), (b,) = (_clocked(_train(work, name, 1)) for name in ("few", "tars"))
    print(f"  training: {_said(a, b, 'with 32 members')}", flush=True)
    shutil.rmtree(work)


def _wide_tar(path: Path, samples: int) -> None:
    """A tar of `samples` pairs, whose captions tell one from another, and their pictures too."""
    path.parent.mkdir()
    pictures = [_picture((n, 255 - n, 0)) for n in range(256)]
    with open(path, "wb") as file:
        for n in range(samples):
            text = f"a red star left of gear {n}".encode()
            for kind, data in (("png", pictures[n * 31 % 251]), ("txt", text)):
                info = tarfile.TarInfo(f"{n:09d}.{kind}")
                info.size = len(data)
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))


def _counted(*tars: Path) -> list[dict[str, float]]:
    """Seconds of processor of `sparc data index` of each tar, one after the other in one process,
    and its peak memory by then. Raises RuntimeError.
    """
    command = [sys.executable, "-c", COUNTED, ROOT / "tools/data.py", *tars]
    shown = subprocess.run(command, capture_output=True, text=True)
    if shown.returncode:
        raise RuntimeError(shown.stderr)
    return [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]


def _compared(tar: Path, count: int) -> int:
    """How many samples, drawn at random, were compared with what tarfile reads. Raises
    RuntimeError for one that differs.
    """
    shards = ShardSet(tar)
    drawn = np.random.default_rng(0).choice(len(shards), min(count, len(shards)), replace=False)
    wanted, found = set(drawn.tolist()), {}
    with tarfile.open(tar) as file:
        for place, member in enumerate(file):
            file.members = []  # else it keeps all
            if place // 2 in wanted:
                found[member.name] = file.extractfile(member).read()
    for n in sorted(wanted):
        raw = shards.read(n)
        if (raw.image, raw.text) != (found[f"{raw.key}.png"], found[f"{raw.key}.txt"]):
            raise RuntimeError(f"sample {n} is not what tarfile reads")
        if raw.key != f"{n:09d}":
            raise RuntimeError(f"sample {n} is called {raw.key}")
    return len(wanted)


def _index(tars: Path) -> None:
    """`sparc data index`. Raises RuntimeError when it fails."""
    command = [sys.executable, ROOT / "tools/data.py", "index", str(tars / "*.tar")]
    shown = subprocess.run(command, capture_output=True, text=True)
    if shown.returncode:
        raise RuntimeError(shown.stderr)


def _train(work: Path, tars: str, processes: int, traced: bool = False) -> Path:
    """Train one step on a folder of tars -> the work dir. Raises RuntimeError."""
    run = work / f"run_{tars}{'_traced' * traced}"
    config = work / "small.py"
    config.write_text(
        SMALL.format(
            base=str(ROOT / "configs/quickstart/sparc.py"),
            tokenizer=str(work / "tokenizer.json"),
            sources=str(work / tars / "*.tar"),
            batch=4 * processes,
        )
    )
    run.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    children = []
    for rank in range(processes):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_PORT=port)
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}}
        environment |= dict(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(ROOT)])
        command = [sys.executable, ROOT / "tools/pretrain.py", config]
        command += ["--work-dir", run, "--launcher", "pytorch"]
        if traced:  # with a filter in the kernel other calls are not stopped at
            filtered = ["-f", "--seccomp-bpf", "-qq", "-e", "trace=%file,getdents64", "-y"]
            command = ["strace", *filtered, "-o", run / f"calls.{rank}", *command]
        with (run / f"out.{rank}").open("w") as out:
            children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    codes = [child.wait() for child in children]
    if any(codes):
        raise RuntimeError(f"exit codes {codes}, see {run}/out.*")
    return run


def _clocked(run: Path) -> list[dict[str, float]]:
    """What StartClockHook has written, of each rank."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("start.*.json"))]


def _said(few: dict[str, float], many: dict[str, float], less: str) -> str:
    time = f"first batch after {many['seconds']:.1f} s ({few['seconds']:.1f} {less})"
    return f"{time}, peak memory {many['peak_mib']:.0f} MiB ({few['peak_mib']:.0f})"


def _calls(log: Path, tars: Path) -> str:
    one = re.compile(re.escape(str(tars)) + r'/(tar-\d+)\.tar(?:\.index)?"(, O_RDONLY)?')
    about = one.findall(log.read_text(errors="replace"))
    opened = {name for name, mode in about if mode}
    of_read = sum(name in opened for name, _ in about)
    return f"{of_read} calls about the {len(opened)} tars it reads, {len(about) - of_read} others"


def _tars(folder: Path, count: int) -> None:
    """`count` tars of one pair, the same but for their names."""
    pair = ("a", _picture("red"), "png", ["a red star left of a blue gear"])
    (first,) = write_shards([pair], folder, prefix="tar-")
    body = first.read_bytes()
    for path in folder.iterdir():
        path.unlink()
    for n in range(count):
        (folder / f"tar-{n:06d}.tar").write_bytes(body)


def _picture(colour: str | tuple[int, int, int]) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(picture, "png")
    return picture.getvalue()


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
    three = rows.add_parser("members", help="one tar of many members")
    three.add_argument("--members", type=int, default=1_000_000)
    three.add_argument("--reads", type=int, default=500, help="samples that are compared")
    three.add_argument("--folder", type=Path, help="where the tar is made; default: /tmp")
    three.set_defaults(run=members)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    cli.guard(main)
