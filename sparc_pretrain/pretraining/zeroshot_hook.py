"""Zero-shot classification while pre-training runs: how the model reads, every N steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from sparc_pretrain.distributed import gather_objects, rank, world_size
from sparc_pretrain.registry import HOOKS
from sparc_pretrain.types import Batch
from sparc_pretrain.zeroshot import classification, encode, prompts


@HOOKS.register_module()
class ZeroShotHook(Hook):
    """Classifies a data set every `interval` steps and after the last, as `tools/zeroshot.py RUN
    classification` does, read as the objective says.

    Logs ``zeroshot/top1``, ``zeroshot/top5`` and ``zeroshot/mean_per_class``, and appends a line to
    WORK_DIR/zeroshot.jsonl. Training is not disturbed: no random number is drawn. Every process
    takes its share of the images.

    Args:
        images, labels, classes: see `classification.read_labelled`.
        interval: steps. templates, suffixes: see `prompts.templates`. ensemble: 'auto',
            'embedding' or 'score'. resize: 'crop' or 'squash'.

    Raises (when the run starts):
        FileNotFoundError, ValueError: the data set cannot be read, or the model has no tokenizer.
    """

    priority = "LOW"

    def __init__(
        self,
        images: str,
        labels: str | None = None,
        classes: str | None = None,
        interval: int = 1000,
        templates: str = "label",
        suffixes: Sequence[str] = (),
        ensemble: str = "auto",
        resize: str = "crop",
    ) -> None:
        if interval < 1:
            raise ValueError(f"ZeroShotHook: interval must be 1 step or more, not {interval}")
        self.source = (images, labels, classes)
        self.interval, self.ensemble, self.resize = interval, ensemble, resize
        self.templates = prompts.templates(templates, suffixes)

    def before_train(self, runner: Runner) -> None:
        """Read the data set, so that a mistake ends the run before it starts.

        Raises ValueError, OSError: no class folders, or a model without tokenizer.
        """
        self.data = classification.read_labelled(*self.source)
        if rank() == 0:
            classification.warn_of_repeats(self.data.classes)
        model = _bare(runner.model)
        if model.encoder.tokenizer is None:
            raise ValueError("ZeroShotHook: the model has no tokenizer to read class names with")
        prompts.how_merged(model.objective, self.ensemble)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Batch = None, outputs: dict | None = None
    ) -> None:
        """Evaluate at the interval and at the end."""
        step = runner.iter + 1
        if step % self.interval and step != runner.max_iters:
            return
        found = self.measure(_bare(runner.model))
        values = {f"zeroshot/{name}": value for name, value in found.items()}
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        runner.logger.info(f"zero-shot at step {step}: {said} ({len(self.data.classes)} classes)")
        if rank() == 0:
            runner.visualizer.add_scalars(values, step=step)
            with (Path(runner.work_dir) / "zeroshot.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **found}) + "\n")

    @torch.no_grad()
    def measure(self, model: Any) -> dict[str, float]:
        """Top-1, top-5 and mean per class of a Pretrainer, the same on every process."""
        training = model.training
        model.eval()
        try:
            readers = {"": model.objective}
            texts = prompts.ClassTexts(
                model.encoder, readers, self.data.classes, self.templates, self.ensemble
            )
            own = range(rank(), len(self.data.files), world_size())
            labels = torch.tensor([self.data.labels[i] for i in own], dtype=torch.long)
            ranks = torch.zeros(0, dtype=torch.long)
            if len(own):
                files = [self.data.files[i] for i in own]
                scores = encode.score_images(
                    model.encoder, readers, files, texts.texts, self.resize
                )
                ranks = classification.class_ranks(
                    texts.class_scores(scores)[""], labels, self.data.classes
                )
        finally:
            model.train(training)
        parts = gather_objects((ranks, labels))
        ranks, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return classification.accuracy(ranks, labels)


def _bare(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model
