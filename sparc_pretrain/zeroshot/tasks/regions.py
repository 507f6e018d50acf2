"""Regions as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.tasks.base import Task, headed, prompted, sized

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Regions(Task):
    """Ground-truth boxes named; the tool adds average precision by the detection metrics."""

    name, words, record = "regions", "class names to the boxes of COCO or LVIS", "regions"
    source = "annotations"

    def flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--annotations", required=True, help="COCO or LVIS JSON")
        headed(parser)
        sized(parser)
        prompted(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.data.coco_file import read_coco
        from sparc_pretrain.zeroshot.prompts import templates
        from sparc_pretrain.zeroshot.regions import read_regions

        file = read_coco(options.annotations)
        data = read_regions(options.images, file, options.limit)
        return data, templates(options.templates, options.suffix), file

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.patch_reader import PatchReader
        from sparc_pretrain.zeroshot.regions import evaluate

        boxes, templates, file = data
        reader = PatchReader.of(objective, options.head)
        found = evaluate(model, boxes, templates, options.size, reader)
        found.protocol["boxes_of_unlisted_images"] = len(file.unlisted)
        return found
