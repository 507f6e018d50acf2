"""The flags that several tools share, each declared once; and what a tool's parser looks like.

Nothing here imports torch or mm, and no tool does before its command line is read: `--help` and a
mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from typing import Any

from sparc_pretrain import shipped

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


class KeyValues(argparse.Action):
    """mmengine's DictAction (``key=value`` with values of Python), which is imported when used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Put a dict of the pairs under the flag's name."""
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except RecursionError:  # how mmengine fails at key=dict(...)
            parser.error(
                f"{option_string}: a value is a number, a word, or a list of them; of a dict, give "
                "the parts: a.b=1 a.c=2"
            )


def parser(description: str | None) -> argparse.ArgumentParser:
    """A tool's parser; `description` is its docstring, whose lines stay as they are."""
    return argparse.ArgumentParser(
        description=shipped.spoken(description or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def config(to: argparse.ArgumentParser, words: str) -> None:
    """The config file, by position: a path, or ``sparc_pretrain::NAME`` for one of ours."""
    to.add_argument("config", help=words, type=shipped.located)


def cfg_options(to: argparse.ArgumentParser) -> None:
    """Overrides of the config."""
    to.add_argument("--cfg-options", nargs="+", action=KeyValues, help="key=value overrides")


def work_dir(to: argparse.ArgumentParser, words: str, default: str | None = None) -> None:
    """Where a tool writes."""
    to.add_argument("--work-dir", default=default, help=words)


def resume(to: argparse.ArgumentParser) -> None:
    """Going on with a training, or replacing it."""
    to.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="continue from PATH, or from the newest valid checkpoint of the work dir (auto)",
    )
    to.add_argument(
        "--force", action="store_true", help="replace the checkpoints of an earlier training"
    )


def amp(to: argparse.ArgumentParser) -> None:
    """Lower precision."""
    to.add_argument("--amp", action="store_true", help="bfloat16 autocast")


def backbone(to: argparse.ArgumentParser, words: str) -> None:
    """A run folder whose backbone goes into an mm config."""
    to.add_argument("--backbone", metavar="RUN", help=words)


def data(to: argparse.ArgumentParser) -> None:
    """A folder of a person's own boxes, masks or label maps."""
    to.add_argument(
        "--data",
        metavar="DIR",
        help="a folder of your boxes, masks (COCO's JSON) or label maps in the place of the "
        "config's data; classes are read from it, see docs/your_data.md",
    )


def launcher(to: argparse.ArgumentParser) -> None:
    """What started the processes; torch.distributed.launch adds --local_rank by itself."""
    to.add_argument("--launcher", choices=LAUNCHERS, default="none")
    to.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def need_compiler() -> None:
    """Raises ValueError when `torch.compile` would fail in the first step."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    if not any(name and shutil.which(name) for name in names):
        raise ValueError(
            "--compile needs a C++ compiler (g++, clang++ or what CXX names): install one, or "
            "leave --compile out"
        )
