"""The real pre-training killed again and again: a script for a quarter of an hour, not a test.

    python -m tests.kill_pretraining --kills 20 --steps 40 --work-dir /tmp/kills

`configs/quickstart/sparc.py` as it is, but for the steps, a checkpoint after each and --batch, runs
in children of a fork server, which has imported torch for all of them. Half of the kills come from
outside at a random moment, half at a chosen change to the disk inside a save (draft, renames, link,
manifest, pointer, deletions). After each the run folder and a checkpoint must be whole; at the end
all weights, the optimizer and the schedule equal the uninterrupted run's bit for bit.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from tests.commands import ROOT, call
from tests.small_pretraining import KILLED, MISFORTUNE, assert_same_run, life

LEAF = """
_base_ = {base!r}
custom_imports = dict(imports=["misfortune"])
schedule = dict(steps={steps}, warmup=3)
data = dict(sources={sources!r}, global_batch={batch})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
custom_hooks = [dict(type="Misfortune", priority="VERY_HIGH"), *_base_.custom_hooks]
"""
CHANGES = 36  # to the disk in a step that saves, about


def newest(work: Path) -> int:
    """The step of the newest whole checkpoint, 0 without one."""
    found = checkpoint.find_valid(work)
    return checkpoint.progress(found)[0] if found else 0


def main() -> None:
    """Print a line per kill, and how the runs compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--work-dir", type=Path, required=True)
    args = parser.parse_args()
    place = args.work_dir.resolve()
    place.mkdir(parents=True, exist_ok=True)
    numbers = ["--train", "256", "--val", "2", "--size", "128", "--shard-size", "64"]
    code, said = call("data", "scenes", "--out", place / "scenes", *numbers)
    assert code == 0, said
    (place / "misfortune.py").write_text(MISFORTUNE)
    sources = str(place / "scenes" / "shards" / "train-*.tar")
    base = str(ROOT / "configs" / "quickstart" / "sparc.py")
    (place / "leaf.py").write_text(
        LEAF.format(base=base, steps=args.steps, batch=args.batch, sources=sources)
    )
    whole, work = place / "whole", place / "killed"
    codes, said = life(place, whole)
    assert codes == [0], said
    chance = random.Random(0)
    for kill in range(args.kills):
        before = newest(work) if work.exists() else 0
        room = args.steps - before - 1 - (args.kills - kill)  # steps that may be spent here
        step = before + 1 + chance.randint(0, max(0, min(1, room)))
        if kill % 2:
            change = chance.randint(1, CHANGES)
            how = f"before change {change} in step {step}"
            codes, said = life(place, work, KILL_AT=f"{step}:{change}")
        else:
            wait = chance.random()
            how = f"from outside, {wait:.2f} s after step {step} was saved"

            def kill_later(child, step=step, wait=wait) -> None:
                mark = work / f"iter_{step}.pth"
                while child.is_alive() and not mark.exists():
                    time.sleep(0.01)
                time.sleep(wait)
                child.kill()

            codes, said = life(place, work, meanwhile=kill_later)
        assert codes == [KILLED], (how, said)
        after = newest(work)
        if (work / "run").exists() or after:
            seen = run_folder.verify(work / "run").config["samples_seen"] // args.batch
            assert seen in (after, after + 1), (seen, after)
        print(f"kill {kill + 1}: {how}; whole checkpoint {after}, run folder whole", flush=True)
        assert after >= before
    codes, said = life(place, work)
    assert codes == [0], said
    assert_same_run(work, whole, args.steps)
    print(f"{args.kills} kills: bit-equal after {args.steps} steps")


if __name__ == "__main__":
    main()
