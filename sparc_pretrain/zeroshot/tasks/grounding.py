"""Grounding as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.tasks.base import Task, sized

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Grounding(Task):
    """Pointing, boxes, words."""

    name, words, record = "grounding", "phrases to boxes, words to patches", "grounding"
    source = "phrases"

    def flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--phrases", required=True, help="Flickr30k-Entities-like JSON")
        sized(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.data.sets.phrases import read_phrases

        return read_phrases(options.images, options.phrases, options.limit)

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.grounding_run import evaluate

        return evaluate(model, data, options.size, objective)
