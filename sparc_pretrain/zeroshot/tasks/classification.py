"""Classification as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.choices import ENSEMBLES
from sparc_pretrain.zeroshot.tasks.base import Task, prompted, squared

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Classification(Task):
    """Top-1, top-5, mean per class."""

    name, words, record = "classification", "class names to images", "classification"
    source = "labels"

    def flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--labels", help="CSV (image, label); without it, a folder per class")
        parser.add_argument(
            "--classes", help="class names: text or JSON; default: the folders' names"
        )
        parser.add_argument("--ensemble", choices=ENSEMBLES, default="auto")
        prompted(parser)
        squared(parser)

    def read(self, options: Namespace) -> Any:
        from sparc_pretrain.zeroshot.classification import read_labelled
        from sparc_pretrain.zeroshot.prompts import templates

        data = read_labelled(options.images, options.labels, options.classes)
        return data, templates(options.templates, options.suffix)

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.classification import evaluate

        images, templates = data
        how = (options.ensemble, options.resize, options.batch_size)
        return evaluate(model, objective, images, templates, *how)
