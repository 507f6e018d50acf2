"""What a zero-shot task is: the one shape that tools/zeroshot.py loops over."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome

HEAD = "of the patches (default: global = g_v after h_v, local = g_v where h_v was not trained)"


class Task:
    """A task's command line, data and evaluation, in this order: what is missing is said before any
    model is loaded.

    Attributes:
        name: its sub-command. words: its help. record: the task that metrics.json names.
        source: the option that names the data. pictures: whether it reads a folder, --images.
    """

    name = ""
    words = ""
    record = ""
    source = "captions"
    pictures = True

    def flags(self, parser: argparse.ArgumentParser) -> None:
        """Its options; --images and --out are there already."""

    def read(self, options: argparse.Namespace) -> Any:
        """The data. Raises FileNotFoundError and ValueError for what cannot be used."""
        raise NotImplementedError

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: argparse.Namespace
    ) -> Outcome:
        """The numbers, how they were made, and what they are."""
        raise NotImplementedError


def squared(parser: argparse.ArgumentParser) -> None:
    """How images become square, and how many are embedded at a time."""
    parser.add_argument("--resize", choices=("crop", "squash"), default="crop")
    parser.add_argument("--batch-size", type=int, default=64)


def prompted(parser: argparse.ArgumentParser) -> None:
    """How class names become texts."""
    parser.add_argument(
        "--templates",
        default="label",
        help="'label' = the name alone, 'openai' = CLIP's 80, or a file, one template per line",
    )
    parser.add_argument(
        "--suffix", action="append", default=[], help="'[prefix]{label}, SUFFIX'; repeatable"
    )


def headed(parser: argparse.ArgumentParser) -> None:
    """How patches are read."""
    parser.add_argument("--head", choices=("global", "local"), help=HEAD)


def sized(parser: argparse.ArgumentParser) -> None:
    """How large images are, and how many."""
    parser.add_argument("--size", type=int, default=0, help="side in pixels (default: of training)")
    parser.add_argument("--limit", type=int, help="only that many images")


def captioned(parser: argparse.ArgumentParser) -> None:
    """A file of captions."""
    from sparc_pretrain.zeroshot.choices import PROTOCOLS

    parser.add_argument("--captions", required=True, help="COCO or Karpathy JSON, CSV ...")
    parser.add_argument("--split", help="of a Karpathy file")
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        help="of a Karpathy file's test split; coco-1k = mean over five folds of 1,000",
    )
    squared(parser)
