"""The pre-training command on scenes, tiny: six steps of a second. Not a test; tests of the command
start it, in this process or in children that they do terrible things to.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from tests.commands import ROOT, call
from tests.forks import become, context

STEPS, STOP = 6, 4
LEAF = """
_base_ = {base!r}
custom_imports = dict(imports=["misfortune"])
tokenizer = dict(train=400)
schedule = dict(steps={steps}, warmup=2)
data = dict(sources={sources!r}, global_batch=16, image_size=64, max_tokens=24)
model = dict(
    vision=dict(overrides=dict(embed_dim=32, depth=2, num_heads=2)),
    text=dict(width=32, layers=1, heads=2), width=16)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=100))
custom_hooks = [dict(type="Misfortune", priority="VERY_HIGH"), *_base_.custom_hooks]
"""
# What befalls a run, as its environment says: at a step a signal, as a scheduler sends it; the
# number of the change to the disk before which it is killed; the size at which a file is too large.
MISFORTUNE = """
import os, resource, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tests.kills import die_before_change

@HOOKS.register_module(force=True)
class Misfortune(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        step = runner.iter + 1
        if step == int(os.environ.get("STOP_AT", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
        at, _, change = os.environ.get("KILL_AT", "-1:0").partition(":")
        if step == int(at):
            die_before_change(int(change))
        at, _, size = os.environ.get("FULL_AT", "-1:0").partition(":")
        if step == int(at):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), hard))
"""
SECONDS = 900  # that a child may take


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums in this process as in its children."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def config_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No yapf, which mmengine runs over every config text: most of a tiny run's time."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with scenes, a config and the module that it imports."""
    folder = tmp_path_factory.mktemp("pretrain")
    numbers = ["--train", "48", "--val", "2", "--size", "64", "--shard-size", "16"]
    assert call("data", "scenes", "--out", folder / "scenes", *numbers)[0] == 0
    (folder / "misfortune.py").write_text(MISFORTUNE)
    (folder / "leaf.py").write_text(
        LEAF.format(
            base=str(ROOT / "configs" / "quickstart" / "sparc.py"),
            steps=STEPS,
            sources=str(folder / "scenes" / "shards" / "train-*.tar"),
        )
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def pretrain(
    place: Path, work: Path, *words: Any, workers: int = 0, options: tuple[str, ...] = ()
) -> tuple[int, str]:
    """The tool in this process, under a name of its own."""
    name = f"experiment_name={work.name}{len(words)}{workers}{os.urandom(4).hex()}"
    every = [f"data.workers={workers}", name, *options]
    return call("pretrain", place / "leaf.py", "--work-dir", work, *words, "--cfg-options", *every)


def _live(name: str, words: list[str], said: str, environment: dict[str, str]) -> None:
    sys.path.insert(0, str(Path(words[0]).parent))  # where the config's own module lies
    become(name, words, said, environment)


def life(
    place: Path,
    work: Path,
    *options: str,
    ranks: int = 1,
    meanwhile: Callable[[BaseProcess], None] = lambda first: None,
    **environment: str,
) -> tuple[list[int], str]:
    """`tools/pretrain.py --resume auto` in children, with what `environment` has in store for them
    and `meanwhile` does to the first.

    Returns:
        The exit codes (minus the signal that killed it) of the ranks, and what they said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = [str(place / "leaf.py"), "--work-dir", str(work), "--resume", "auto"]
    if ranks > 1:
        words += ["--launcher", "pytorch"]
        environment |= dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    words += ["--cfg-options", f"experiment_name={work.name}{os.urandom(4).hex()}", *options]
    said = work.with_name(f"{work.name}-{os.urandom(4).hex()}.txt")
    children = []
    for number in range(ranks):
        mine = dict(environment, RANK=str(number), LOCAL_RANK=str(number))
        what = ("pretrain", words, str(said), mine)
        children.append(context().Process(target=_live, args=what))
    for child in children:
        child.start()
    meanwhile(children[0])
    for child in children:
        child.join(SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
    return [child.exitcode for child in children], said.read_text()


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The work dir of a run that was never stopped."""
    code, said = pretrain(place, place / "whole")
    assert code == 0, said
    return place / "whole"


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a checkpoint by its path, without clock times and paths."""
    if isinstance(state, dict):
        items = list(state.items())
    elif isinstance(state, (list, tuple)):
        items = list(enumerate(state))
    else:
        return {name: state}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{name}.{key}")
    return found


def assert_same_run(work: Path, whole: Path, steps: int = STEPS) -> None:
    """Weights, optimizer and schedule of the last checkpoint, and the run folder, bit for bit."""
    name = f"iter_{steps}.pth"
    mine, theirs = (checkpoint.load(folder / name) for folder in (work, whole))
    for part in ("state_dict", "optimizer", "param_schedulers"):
        found, wanted = flat(mine[part]), flat(theirs[part])
        assert found.keys() == wanted.keys() and len(wanted) > 5
        for key, value in wanted.items():
            same = (
                torch.equal(found[key], value) if isinstance(value, Tensor) else found[key] == value
            )
            assert same, f"{part}{key}"
    weights = [run_folder.verify(folder).path / run_folder.WEIGHTS for folder in (work, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def logged(work: Path) -> list[dict]:
    lines = [
        json.loads(line)
        for file in sorted(work.glob("*/vis_data/scalars.json"))
        for line in file.read_text().splitlines()
    ]
    return [line for line in lines if "loss" in line]


KILLED = -signal.SIGKILL
