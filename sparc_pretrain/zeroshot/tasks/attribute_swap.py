"""Attribute swap as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.tasks.base import Task, squared

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class AttributeSwap(Task):
    """Own captions against the same with two colours exchanged."""

    name, record = "swap", "attribute swap"
    words = "captions against the same with two colours exchanged"

    def flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--captions", required=True, help="COCO or Karpathy JSON, CSV ...")
        parser.add_argument("--split", help="of a Karpathy file")
        squared(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.zeroshot.attribute_swap import pairs_of
        from sparc_pretrain.zeroshot.encode import CaptionedImages

        data = CaptionedImages.read(options.images, options.captions, options.split)
        return pairs_of(data), data

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.attribute_swap import evaluate

        return evaluate(model, objective, *data, options.resize, options.batch_size)
