"""Segmentation as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.data.sets.conventions import CONVENTIONS
from sparc_pretrain.zeroshot.choices import BACKGROUNDS, UPSAMPLING
from sparc_pretrain.zeroshot.tasks.base import Task, headed, prompted

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Segmentation(Task):
    """mIoU, the paper's way and mmseg's. `options.class_names` are names that the tool knows."""

    name, words = "segmentation", "class names to pixels"
    record = "zeroshot_segmentation"  # 'segmentation' is the fine-tuned one
    source = "annotations"

    def flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--annotations", required=True, help="folder of label maps (PNG)")
        parser.add_argument(
            "--split", help="list of the names to take (VOC's val.txt; default: all)"
        )
        parser.add_argument(
            "--classes", help="class names; needed unless --convention names a data set"
        )
        parser.add_argument("--convention", choices=tuple(CONVENTIONS), default="ade")
        parser.add_argument("--background", choices=BACKGROUNDS, help="of voc21 and context60")
        parser.add_argument(
            "--threshold", type=float, default=0.0, help="cosine, of the background"
        )
        headed(parser)
        parser.add_argument("--view", choices=("slide", "squash", "whole"), default="slide")
        parser.add_argument(
            "--size", type=int, default=0, help="shorter side (default: of training)"
        )
        parser.add_argument(
            "--stride", type=int, default=0, help="of windows (default: half a window)"
        )
        parser.add_argument("--upsample", choices=tuple(UPSAMPLING), default="labels")
        prompted(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.data.sets.label_maps import read_maps
        from sparc_pretrain.zeroshot.dense import View
        from sparc_pretrain.zeroshot.prompts import read_classes, templates

        view = View(options.view, options.size, options.stride, options.upsample)
        names = read_classes(options.classes) if options.classes else options.class_names
        where = (options.images, options.annotations, names, options.convention, options.split)
        return read_maps(*where), view, templates(options.templates, options.suffix)

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.patch_reader import PatchReader
        from sparc_pretrain.zeroshot.segmentation import evaluate

        maps, view, templates = data
        background = options.background or ("class" if maps.convention.background else "none")
        reader = PatchReader.of(objective, options.head)
        found = evaluate(model, maps, templates, view, reader, background, options.threshold)
        found.protocol["convention"] = options.convention
        found.protocol["split"] = options.split or "all maps of the folder"
        found.protocol["class_names"] = options.classes or f"mmseg's of {options.convention}"
        return found
