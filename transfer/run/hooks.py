"""Runner hooks of transfer: data against heads at the start, metrics.json and pictures after every
evaluation.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData

from sparc_pretrain import json_file
from sparc_pretrain.distributed import gather_objects, rank
from sparc_pretrain.metrics_file import write_metrics
from sparc_pretrain.registry import HOOKS
from transfer.detection.evaluator import DetectionMetric
from transfer.mm import images
from transfer.mm.label_maps import check_sample
from transfer.run.class_drawing import draw_classes
from transfer.run.foreign_metrics import declared_by

LABEL = 1.3  # of the height of mmdet's largest label
LEGIBLE = 320  # pixels: pictures with a shorter side are scaled up before labels are drawn
# Heads that classify something else than the data set's categories.
OTHER_CLASSES = (
    "RPNHead",
    "GARPNHead",
    "EmbeddingRPNHead",
    "FusedSemanticHead",
    "SCNetSemanticHead",
    "STDCHead",  # boundaries
    "ATSSVLFusionHead",  # tokens of a text
    "GroundingDINOHead",
)


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Stops before the first step when a data set is empty or its categories are not the head's."""

    def before_train(self, runner: Runner) -> None:
        """Raises ValueError naming both counts."""
        dataset = runner.train_dataloader.dataset
        if len(dataset) == 0:
            raise ValueError(f"the training data set is empty: {_source(dataset)}")
        _compare(dataset, runner.model)
        check_sample(_innermost(dataset))
        if runner.val_loop is not None:  # what the first validation would stop at
            _judge(runner.val_dataloader.dataset, runner.val_evaluator, runner.model)

    def before_test(self, runner: Runner) -> None:
        """As before training."""
        _judge(runner.test_dataloader.dataset, runner.test_evaluator, runner.model)


def _judge(dataset: Any, evaluator: Any, model: Any) -> None:
    """Raises ValueError where what is evaluated does not go together."""
    _compare(dataset, model)
    check_sample(_innermost(dataset))
    for metric in evaluator.metrics:
        if isinstance(metric, DetectionMetric):
            metric.check()


def _innermost(dataset: Any) -> Any:
    """The data set inside those that wrap one."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def _compare(dataset: Any, model: Any) -> None:
    """Raises ValueError where a head of `model` classifies another number of categories."""
    inner = _innermost(dataset)
    meta = getattr(inner, "metainfo", None) or {}
    classes = meta.get("classes")
    if not classes:
        return
    found = getattr(inner, "cat_ids", None)
    if found is not None and len(found) != len(classes):
        raise ValueError(
            f"{_source(inner)} holds {len(found)} of the {len(classes)} categories in the "
            "config's metainfo.classes: the names must match"
        )
    expected = {len(classes)}
    if meta.get("thing_classes"):  # panoptic: heads of things, of stuff, of stuff and the rest
        stuff = len(meta.get("stuff_classes") or ())
        expected |= {len(meta["thing_classes"]), stuff, stuff + 1}
    for name, module in model.named_modules():
        count = getattr(module, "num_classes", None)
        head = type(module).__module__.startswith(("mmdet.", "mmseg.", "transfer."))
        if not head or not isinstance(count, int) or type(module).__name__ in OTHER_CLASSES:
            continue
        if count not in expected and "rpn" not in name:
            raise ValueError(
                f"{name} ({type(module).__name__}) has num_classes={count}, the data set "
                f"{len(classes)} categories: set num_classes={len(classes)}"
            )


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes WORK_DIR/metrics.json after validation and test, pictures of the first images, and
    what metrics with `beside_record` keep. A training that is resumed at its end, because it was
    stopped in its last validation, is validated.

    Args:
        pictures: how many images are drawn beside the truth into WORK_DIR/pictures.
    """

    priority = "LOW"

    def __init__(self, pictures: int = 8) -> None:
        self.pictures, self.drawn, self.started = pictures, 0, 0.0
        self.resumed_at_end = False

    def before_train(self, runner: Runner) -> None:
        """Note whether anything is left to train."""
        self.resumed_at_end = runner.iter >= runner.max_iters

    def after_train(self, runner: Runner) -> None:
        """The record of the last step is there when training ends."""
        if not self.resumed_at_end or runner.val_loop is None:
            return
        if any(gather_objects(rank() == 0 and not _is_recorded(runner))):
            runner.val_loop.run()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """The backbone's ancestry travels with the weights."""
        line = runner.cfg.get("ancestry")
        checkpoint["ancestry"] = None if line is None else dict(line)  # plain data only

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """What the loaded weights come from goes before what the config says."""
        if "ancestry" in checkpoint:
            runner.cfg.ancestry = checkpoint["ancestry"]

    def before_val_epoch(self, runner: Runner) -> None:
        """Count pictures and seconds from here; captions and answers go beside the record."""
        self._begin(runner, runner.val_evaluator)

    def before_test_epoch(self, runner: Runner) -> None:
        """As before validation."""
        self._begin(runner, runner.test_evaluator)

    def _begin(self, runner: Runner, evaluator: Any) -> None:
        self.drawn, self.started = 0, time.perf_counter()
        for metric in evaluator.metrics:
            # not in the config: its copy is tested from another work dir
            if getattr(metric, "beside_record", False) and metric.outfile_prefix is None:
                metric.outfile_prefix = f"{runner.work_dir}/"

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw what was predicted, where the model has a visualizer for it."""
        if rank() != 0 or not hasattr(runner.visualizer, "dataset_meta"):
            return
        for sample in outputs:
            if self.drawn >= self.pictures or not hasattr(sample, "img_path"):
                return
            folder = Path(runner.work_dir) / "pictures"
            folder.mkdir(exist_ok=True)
            image, drawn = enlarged(images.read(sample.img_path), sample)
            with legible_labels():
                runner.visualizer.add_datasample(
                    "prediction", image, drawn, out_file=str(folder / f"{self.drawn:02d}.png")
                )
            self.drawn += 1

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the record."""
        self._record(runner, metrics, runner.cfg.get("val_evaluator"), runner.val_loop)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the record."""
        self._record(runner, metrics, runner.cfg.get("test_evaluator"), runner.test_loop)

    def _record(self, runner: Runner, metrics: dict | None, evaluator: Any, loop: Any) -> None:
        if rank() != 0 or not metrics:
            return
        cfg = runner.cfg
        write_metrics(
            _record_of(runner),
            task=cfg.get("task") or type(runner.model).__name__,
            metrics=metrics,
            protocol={
                "evaluator": json.loads(json.dumps(evaluator, default=str)),
                "iterations": runner.iter,
            },
            backbone=cfg.get("ancestry"),
            config=cfg.get("config_name"),
            checkpoint=str(cfg.get("checkpoint") or f"iteration {runner.iter}"),
            data=_source(loop.dataloader.dataset),
            seconds=round(time.perf_counter() - self.started, 1),
            declared=[one for metric in loop.evaluator.metrics for one in declared_by(metric)],
            per_class={
                name: values
                for metric in loop.evaluator.metrics
                for name, values in getattr(metric, "per_class", {}).items()
            },
        )


def _record_of(runner: Runner) -> Path:
    return Path(runner.work_dir) / "metrics.json"


def _is_recorded(runner: Runner) -> bool:
    """Whether metrics.json is of the step that the training has reached."""
    if not _record_of(runner).is_file():
        return False
    found = json_file.read_object(_record_of(runner))
    return (found.get("protocol") or {}).get("iterations") == runner.iter


@contextmanager
def legible_labels() -> Iterator[None]:
    """mmdet writes the names of small boxes with 7 pixels; here all have `LABEL` times its 13.
    mmseg piles names up and cuts them; here `draw_classes` writes them.
    """
    boxes = sys.modules.get("mmdet.visualization.local_visualizer")
    maps = sys.modules.get("mmseg.visualization.local_visualizer")
    with ExitStack() as stack:
        if boxes is not None:
            stack.callback(setattr, boxes, "_get_adaptive_scales", boxes._get_adaptive_scales)
            boxes._get_adaptive_scales = lambda areas, *_, **__: np.full(len(areas), LABEL)
        if maps is not None:
            drawer = maps.SegLocalVisualizer
            stack.callback(setattr, drawer, "_draw_sem_seg", drawer._draw_sem_seg)
            drawer._draw_sem_seg = draw_classes
        yield


def enlarged(image: np.ndarray, sample: Any) -> tuple[np.ndarray, Any]:
    """A small image [H,W,3] and its data sample, both scaled up so that labels drawn on it can be
    read; unchanged when the image is large enough.
    """
    factor = math.ceil(LEGIBLE / min(image.shape[:2]))
    if factor <= 1:
        return image, sample
    sample = sample.clone()
    for name in ("gt_instances", "pred_instances"):
        if name in sample:
            instances = sample.get(name).clone()
            instances.bboxes = instances.bboxes * factor
            if "masks" in instances:
                instances.masks = _enlarged_masks(instances.masks, factor)
            sample.set_data({name: instances})
    for name in ("gt_sem_seg", "pred_sem_seg"):
        if name in sample:
            labels = sample.get(name).data.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            sample.set_data({name: PixelData(data=labels)})
    return mmcv.imrescale(image, float(factor), interpolation="bicubic"), sample


def _enlarged_masks(masks: Any, factor: int) -> Any:
    """Masks [N,H,W]: a tensor or an array, as models give them, or mmdet's own, of annotations."""
    if isinstance(masks, torch.Tensor):
        return masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if isinstance(masks, np.ndarray):
        return masks.repeat(factor, 1).repeat(factor, 2)
    return masks.resize((masks.height * factor, masks.width * factor))


def _source(dataset: Any) -> str:
    """Where a data set was read from."""
    dataset = _innermost(dataset)
    prefix = getattr(dataset, "data_prefix", None) or {}
    return str(getattr(dataset, "ann_file", "") or ", ".join(str(v) for v in prefix.values()))
