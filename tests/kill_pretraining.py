"""The real pre-training killed again and again: a script for a quarter of an hour, not a test.

    python -m tests.kill_pretraining --kills 20 --steps 30 --work-dir /tmp/kills

`configs/quickstart/sparc.py` as it is, but for the steps and a checkpoint after each, runs as a
command of its own. Half of the kills come from outside at a random moment, half at a chosen change
to the disk inside a save (draft, renames, link, manifest, pointer, deletions). After each the run
folder and a checkpoint must be whole; at the end all weights, the optimizer and the schedule equal
the uninterrupted run's bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from tests.commands import ROOT, command
from tests.small_pretraining import MISFORTUNE, assert_same_run

LEAF = """
_base_ = {base!r}
custom_imports = dict(imports=["misfortune"])
schedule = dict(steps={steps}, warmup=3)
data = dict(sources={sources!r})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
custom_hooks = [dict(type="Misfortune", priority="VERY_HIGH"), *_base_.custom_hooks]
"""
CHANGES = 36  # to the disk in a step that saves, about


def start(place: Path, work: Path, **environment: str) -> subprocess.Popen:
    """The command in a session of its own."""
    words = [sys.executable, str(ROOT / "tools" / "pretrain.py"), str(place / "leaf.py")]
    words += ["--work-dir", str(work), "--resume", "auto"]
    paths = os.pathsep.join([str(place), str(ROOT)])
    with open(place / f"{work.name}.log", "a") as log:
        return subprocess.Popen(
            words,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
        )


def newest(work: Path) -> int:
    """The step of the newest whole checkpoint, 0 without one."""
    found = checkpoint.find_valid(work)
    return checkpoint.progress(found)[0] if found else 0


def main() -> None:
    """Print a line per kill, and how the runs compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--work-dir", type=Path, required=True)
    args = parser.parse_args()
    place = args.work_dir.resolve()
    numbers = ["--train", "256", "--val", "2", "--size", "128", "--shard-size", "64"]
    done = command("data", "scenes", "--out", place / "scenes", *numbers)
    assert done.returncode == 0, done.stderr
    (place / "misfortune.py").write_text(MISFORTUNE)
    sources = str(place / "scenes" / "shards" / "train-*.tar")
    base = str(ROOT / "configs" / "quickstart" / "sparc.py")
    (place / "leaf.py").write_text(LEAF.format(base=base, steps=args.steps, sources=sources))
    whole, work = place / "whole", place / "killed"
    assert start(place, whole).wait() == 0
    chance = random.Random(0)
    for kill in range(args.kills):
        before = newest(work) if work.exists() else 0
        room = args.steps - before - 1 - (args.kills - kill)  # steps that may be spent here
        step = before + 1 + chance.randint(0, max(0, min(2, room)))
        if kill % 2:
            how = f"before change {(change := chance.randint(1, CHANGES))} in step {step}"
            process = start(place, work, KILL_AT=f"{step}:{change}")
        else:
            wait = chance.random()
            how = f"from outside, {wait:.2f} s after checkpoint {step - 1} was begun"
            process = start(place, work)
            while process.poll() is None and not (work / f"iter_{step - 1}.pth").exists():
                if step == 1 and (work / "tokenizer.json").exists():
                    break
                time.sleep(0.01)
            time.sleep(wait)
            process.kill()
        assert process.wait() == -signal.SIGKILL, how
        after = newest(work)
        if (work / "run").exists() or after:
            seen = run_folder.verify(work / "run").config["samples_seen"] // 64
            assert seen in (after, after + 1), (seen, after)
        print(f"kill {kill + 1}: {how}; whole checkpoint {after}, run folder whole", flush=True)
        assert after >= before
    assert start(place, work).wait() == 0
    assert_same_run(work, whole, args.steps)
    print(f"{args.kills} kills: bit-equal after {args.steps} steps")


if __name__ == "__main__":
    main()
