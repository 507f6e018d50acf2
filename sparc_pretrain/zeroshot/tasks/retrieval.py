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
        parser.add_argument(
            "--rerank",
            type=int,
            default=0,
            help="judge a query's best again, pair by pair (X-VLM: 256 of COCO, 128 of Flickr)",
        )

        parser.add_argument(
            "--boxes", help="COCO-like file of boxes, for models that read regions (UNITER, Oscar)"
        )

    def read(self, options: Namespace) -> Any:
        from dataclasses import replace

        from sparc_pretrain.zeroshot.given_boxes import read_boxes
        from sparc_pretrain.zeroshot.retrieval import read_pairs

        pairs, folds = read_pairs(options.images, options.captions, options.split, options.protocol)
        file = getattr(options, "boxes", None)
        return replace(pairs, boxes=read_boxes(file)) if file else pairs, folds

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.retrieval import evaluate

        pairs, folds = data
        best = getattr(options, "rerank", 0)
        found = evaluate(model, objective, pairs, folds, options.resize, options.batch_size, best)
        found.protocol["karpathy"] = options.protocol
        if pairs.boxes is not None:
            found.protocol["boxes"] = str(options.boxes)
        return found
