"""Plug a tiny run folder into mm configs of every folder in the mmdet and mmseg wheels: build the
model, take one loss step with gradients reaching the backbone, predict. Writes a Markdown table.

    python tools/measure/plug_report.py --out docs/results/plug.md --resume

Of each folder one config per kind of model (detector, neck, heads) is tried, each in a process of
its own with a time limit; WORK_DIR/results.jsonl holds a line per config, so a stopped report goes
on with --resume.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.command import cli
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from transfer import mm
from transfer.plug import explain, read, scope_of

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given
from plug_table import EXCLUDED, FAILS, PASSES, UNUSABLE, counts, table

from tests.transfer.plug.trial import trial

PARTS = ("neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "decode_head", "auxiliary_head")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="Markdown table (default: print the counts only)")
    parser.add_argument("--work-dir", default="work_dirs/plug_report", help="results.jsonl")
    parser.add_argument("--run", help="run folder (default: a tiny one with random weights)")
    parser.add_argument("--resume", action="store_true", help="keep the results that are there")
    parser.add_argument("--only", metavar="PATTERN", help="configs such as 'mmdet/dino/*'")
    parser.add_argument("--jobs", type=int, default=1, help="configs tried at a time")
    parser.add_argument("--limit", type=float, default=120, help="seconds per config")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Try, write, count; 1 if a config fails."""
    args = parse(argv)
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least 1")
    work_dir = cli.writable(args.work_dir)
    lines = work_dir / "results.jsonl"
    if lines.exists() and not args.resume:
        raise FileExistsError(f"{lines} exists: go on with --resume, or name another --work-dir")
    done = {}
    if lines.exists():
        done = {r["group"]: r for r in map(json.loads, lines.read_text().splitlines())}
    run = Path(args.run) if args.run else tiny_run(work_dir)
    torch.set_num_threads(1)  # children are forked: no thread may be running
    warnings.simplefilter("ignore")
    mm.register(*mm.SCOPES)  # once, in the parent: ten seconds
    wanted = [
        group for group in configs() if not args.only or fnmatch.fnmatch(group[0][0], args.only)
    ]
    todo = [group for group in wanted if group[0][0] not in done]
    for result in forked(todo, run, args.jobs, args.limit):
        done[result["group"]] = result
        with lines.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{len(done)}: {result['config']}: {result['status']}", flush=True)
    results = [done[group[0][0]] for group in wanted]
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(args.out, lambda file: file.write(table(results).encode()))
    print("\n".join(counts(results)))
    return int(any(r["status"] == FAILS for r in results))


def tiny_run(work_dir: Path) -> Path:
    """A run folder of two narrow blocks with random weights, made where there is none."""
    path = work_dir / "run"
    if not path.exists():
        torch.manual_seed(0)
        words = Tokenizer.train(["a red star", "two blue fish"], 300)
        model = DualEncoder(
            VisionTower(
                "vit_tiny_patch16_224", 32, overrides=dict(embed_dim=32, depth=2, num_heads=2)
            ),
            TextTower(vocab_size=words.vocab_size, width=24, layers=1, heads=2, max_tokens=10),
            16,
            tokenizer=words,
        )
        model.save_pretrained(path, {"objective": {"type": "Sparc"}, "samples_seen": 0})
    return path


def configs() -> list[list[tuple[str, Path]]]:
    """Names and paths to try, in groups: of a group the first that is applicable counts.

    Every kind of every folder is a group of one; a folder of nothing but parts and files that do
    not load is one group, so that it is counted.
    """
    groups = []
    for library in mm.SCOPES:
        root = Path(mm.locate(f"{library}::."))
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            # those of the folder itself before those of its own folders
            paths = sorted(folder.rglob("*.py"), key=lambda path: (len(path.parts), path))
            named = [(f"{library}/{path.relative_to(root)}", path) for path in paths]
            firsts: dict[str, list[tuple[str, Path]]] = {}
            for name, path in named:
                firsts.setdefault(kind_of(path), [(name, path)])
            usable = [one for kind, one in firsts.items() if not kind.startswith(UNUSABLE)]
            groups += usable or [named]
    return groups


def kind_of(path: Path) -> str:
    """Classes of the model, its neck and its heads; ``part`` where there is no model."""
    try:
        model = read(path).get("model")
    except Exception as error:  # the trial of this config will say what is wrong
        return f"{UNUSABLE[1]}: {type(error).__name__}"
    if not model:
        return UNUSABLE[0]
    names = [str(model.get("type"))]
    inner = model.get("detector") or model
    for key in PARTS:
        names += [str(part.get("type")) for part in _listed(inner.get(key))]
    return " ".join(names)


def _listed(node: Any) -> list[Any]:
    if node is None:
        return []
    return list(node) if isinstance(node, (list, tuple)) else [node]


def forked(
    todo: list[list[tuple[str, Path]]], run: Path, jobs: int, limit: float
) -> Iterator[dict[str, Any]]:
    """Results as they come: each group in a child of this warm process, killed after `limit`
    seconds.
    """
    context = multiprocessing.get_context("fork")
    waiting, running = list(todo), []
    while waiting or running:
        while waiting and len(running) < jobs:
            group = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=attempt, args=(group, run, theirs))
            child.start()
            theirs.close()
            running.append((group, child, ours, time.monotonic()))
        time.sleep(0.02)
        for entry in list(running):
            group, child, ours, start = entry
            seconds = time.monotonic() - start
            result = {"config": group[0][0], "model": "", "status": FAILS}
            if ours.poll():
                try:
                    result = ours.recv()
                except EOFError:  # killed from outside, or by a lack of memory
                    result["reason"] = "the process died"
            elif seconds > limit:
                child.kill()
                result["reason"] = f"not done after {limit:.0f} s"
            else:
                continue
            child.join()
            running.remove(entry)
            library, folder = group[0][0].split("/")[:2]
            where = {"group": group[0][0], "library": library, "folder": folder}
            yield {**where, **result, "seconds": round(seconds, 1)}


def attempt(group: list[tuple[str, Path]], run: Path, answer: Connection) -> None:
    """In the child: the result of the first config that is applicable, else of the first."""
    logging.disable(logging.WARNING)
    first = None
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for name, path in group:
            result = {"config": name, "model": _model(path), **status(name, path, run)}
            first = first or result
            if result["status"] != EXCLUDED:
                break
    answer.send(result if result["status"] != EXCLUDED else first)


def _model(path: Path) -> str:
    kind = kind_of(path)
    return "" if kind.startswith(UNUSABLE) else kind.split(" ")[0]


def status(name: str, path: Path, run: Path) -> dict[str, Any]:
    """Plugs, builds, steps, predicts."""
    place = f"{name.split('/')[0]}/.mim/configs/{name.split('/', 1)[1]}"
    try:
        cfg = read(path)
    except Exception as error:  # a config is a program and raises what it wants; the page says what
        reason = f"the wheel's own file does not load: {cli.one_line(error)[:150]}"
        return {"status": EXCLUDED, "reason": f"{reason} ({place}:{_line(path, '_base_')})"}
    if "model" not in cfg:
        return {"status": EXCLUDED, "reason": f"a part of other configs, no model ({place}:1)"}
    try:
        changes = explain(cfg, run)
    except ValueError as error:
        known = "cannot take SparcViT" in str(error)
        return {"status": EXCLUDED if known else FAILS, "reason": cli.one_line(error)}
    except Exception:  # whatever mm's classes raise is this report's subject: none may end it
        return {"status": FAILS, "reason": _last(traceback.format_exc())}
    try:
        losses = trial(cfg, scope_of(cfg))
    except Exception:  # as above
        return {"status": FAILS, "reason": _last(traceback.format_exc())}
    return {"status": PASSES, "reason": "", "changes": len(changes), "losses": losses}


def _last(trace: str) -> str:
    """The error and the last place of a traceback."""
    lines = [line.strip() for line in trace.strip().splitlines()]
    places = [line for line in lines if line.startswith("File ")]
    error = next(line for line in reversed(lines) if line)
    places = [p.split("site-packages/")[-1].replace('"', "") for p in places[-2:]]
    return f"{error[:300]} [{' < '.join(reversed(places))}]"


def _line(path: Path, needle: str) -> int:
    """Number of the first line with `needle`, else 1."""
    lines = path.read_text().splitlines()
    return next((i for i, line in enumerate(lines, 1) if needle in line), 1)


if __name__ == "__main__":
    cli.guard(main)
