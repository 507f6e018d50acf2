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
        parser.add_argument(
            "--train-phrases", help="of the training split: gives the best constant box"
        )
        parser.add_argument(
            "--boxes", help="COCO-like file of boxes, for models that choose one (UNITER)"
        )
        parser.add_argument(
            "--pictures", type=int, default=0, help="draw so many images: truth, predicted boxes"
        )
        sized(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.data.sets.phrases import read_phrases
        from sparc_pretrain.zeroshot.given_boxes import read_boxes

        train = getattr(options, "train_phrases", None)
        constant = read_phrases(None, train) if train else None
        file = getattr(options, "boxes", None)
        given = read_boxes(file) if file else None
        return read_phrases(options.images, options.phrases, options.limit), constant, given

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.box_reading import constant_box
        from sparc_pretrain.zeroshot.grounding_run import evaluate

        images, train, given = data
        constant = constant_box(train) if train else None
        found = evaluate(model, images, options.size, objective, constant, given)
        if given is not None:
            found.protocol["boxes"] = str(options.boxes)
        if count := getattr(options, "pictures", 0):
            from sparc_pretrain.zeroshot.box_pictures import pictures

            found.pictures.update(pictures(model, objective, images[:count]))
        return found
