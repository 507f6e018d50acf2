"""Retrieval as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.tasks.base import Task, captioned

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Retrieval(Task):
    """Recall both ways."""

    name, words, record = "retrieval", "captions to images and back", "retrieval"

    def flags(self, parser: ArgumentParser) -> None:
        captioned(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.zeroshot.retrieval import read_pairs

        return read_pairs(options.images, options.captions, options.split, options.protocol)

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.retrieval import evaluate

        pairs, folds = data
        found = evaluate(model, objective, pairs, folds, options.resize, options.batch_size)
        found.protocol["karpathy"] = options.protocol
        return found
