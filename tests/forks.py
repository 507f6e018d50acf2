"""Tools as children of one process that has imported what takes long to import. Not a test."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import IO
from unittest import mock

import pytest
import torch

from sparc_pretrain.command import cli
from tests.commands import ROOT, tool

SLOW = (  # to import
    "matplotlib.pyplot",  # mmengine's visualizer
    "mmcv.transforms",
    "mmengine.runner",
    "mpl_toolkits.mplot3d",
    "setuptools",
    "sparc_pretrain.objectives",
    "sparc_pretrain.pretraining.hooks",
    "sparc_pretrain.pretraining.onlookers",
    "sparc_pretrain.pretraining.pretrainer",
    "sparc_pretrain.pretraining.recipe",
    "sparc_pretrain.study.evaluate",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "yapf.yapflib.yapf_api",
)


def context() -> ForkServerContext:
    """Of children that need not import."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__, *SLOW])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # Python 3.11's fork server knows not our sys.path
        forkserver.ensure_running()
    return found


def become(name: str, words: Sequence[str], said: str, environment: Mapping[str, str]) -> None:
    """``tools/NAME.py WORDS`` in this child, what it says to the end of the file `said`. Without
    yapf, which mmengine runs over every config: most of a tiny run's time.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    with mock.patch("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True)):
        cli.guard(lambda: tool(name).main([str(word) for word in words]))


class Child:
    """As `subprocess.Popen` of ``python tools/NAME.py WORDS`` would be."""

    def __init__(self, command: Sequence[str], stdout: IO, stderr: int, env: Mapping) -> None:
        words = (Path(command[1]).stem, command[2:], stdout.name, dict(env))
        self.process = context().Process(target=_with_children, args=words)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> None:
        self.process.join()


class Fork:
    """The same of a child, whose output it shares."""

    def __init__(self, command: Sequence[str]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                cli.guard(lambda: tool(Path(command[1]).stem).main(command[2:]))
            except SystemExit as end:
                code = end.code or 0
            finally:
                os._exit(code)


def started_as(kind: type) -> SimpleNamespace:
    """In the place of the module `subprocess` of a tool that starts others."""
    return SimpleNamespace(Popen=kind, STDOUT=None)


def _with_children(name: str, words: Sequence[str], said: str, environment: Mapping) -> None:
    with mock.patch.object(tool(name), "subprocess", started_as(Fork)):
        become(name, words, said, environment)
