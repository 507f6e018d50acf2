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
            "--rerank-by",
            choices=("match", "both"),
            default="match",
            help="match: as released; both: plus the contrast's logit, which drew the negatives",
        )
        boxed(parser)
        parser.add_argument(
            "--candidates",
            type=int,
            default=0,
            help="find the right one among so many, drawn from its category (Kaleido-BERT: 101)",
        )
        parser.add_argument(
            "--products",
            help="JSON of --candidates: {FILE: PRODUCT} or {FILE: [PRODUCT, CATEGORY]}",
        )

    def read(self, options: Namespace) -> Any:
        from dataclasses import replace

        from sparc_pretrain.zeroshot.candidates import read_products
        from sparc_pretrain.zeroshot.given_boxes import read_boxes
        from sparc_pretrain.zeroshot.retrieval import read_pairs

        limit, few = getattr(options, "limit", None), getattr(options, "candidates", 0)
        products = getattr(options, "products", None)
        if few and (options.protocol or getattr(options, "rerank", 0)):
            raise ValueError("--candidates goes without --protocol and --rerank")
        if getattr(options, "rerank_by", "match") != "match" and not options.rerank:
            raise ValueError("--rerank-by says how --rerank K orders: give both")
        if limit is not None and (limit < 1 or options.protocol):
            raise ValueError("--limit is at least 1 and goes without --protocol")
        if products and not few:
            raise ValueError("--products says which images --candidates are drawn from: give both")
        pairs, folds = read_pairs(options.images, options.captions, options.split, options.protocol)
        pairs = pairs if limit is None else pairs.first(limit)
        file = getattr(options, "boxes", None)
        pairs = replace(pairs, boxes=read_boxes(file)) if file else pairs
        return pairs, folds, read_products(products) if products else None

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot import candidates, retrieval

        pairs, folds, products = data
        best, few = getattr(options, "rerank", 0), getattr(options, "candidates", 0)
        how, given = (options.resize, options.batch_size), (model, objective, pairs)
        if few:
            found = candidates.evaluate(*given, few, products, *how)
        else:
            by = getattr(options, "rerank_by", "match")
            found = retrieval.evaluate(*given, folds, *how, best, by)
        found.protocol["karpathy"] = options.protocol
        if limit := getattr(options, "limit", None):
            found.protocol["limit"] = limit
        if pairs.boxes is not None:
            found.protocol["boxes"] = str(options.boxes)
        return found


def boxed(parser: ArgumentParser) -> None:
    """Boxes for those who read them, and fewer images."""
    parser.add_argument(
        "--boxes", help="COCO-like file of boxes, for UNITER and Oscar (class names: its tags)"
    )
    parser.add_argument("--limit", type=int, help="only that many images")
