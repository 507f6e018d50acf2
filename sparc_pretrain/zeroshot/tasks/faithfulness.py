"""Faithfulness as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.tasks.base import captioned
from sparc_pretrain.zeroshot.tasks.retrieval import Retrieval, boxed

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Faithfulness(Retrieval):
    """K-Precision, of the captions that retrieval finds."""

    name, record = "faithfulness", "faithfulness"
    words = "K-Precision of the caption retrieved for each image"

    def flags(self, parser: ArgumentParser) -> None:
        captioned(parser)
        boxed(parser)

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.faithfulness import evaluate

        found = evaluate(model, objective, data[0], options.resize, options.batch_size)
        given = {name: getattr(options, name, None) for name in ("limit", "boxes")}
        found.protocol.update({name: value for name, value in given.items() if value})
        return found
