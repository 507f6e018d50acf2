"""What the numbers of mmdet's and mmseg's own metrics are, which cannot declare it themselves."""

from __future__ import annotations

from typing import Any

from sparc_pretrain.metric import Metric

COCO = (
    Metric("bbox_mAP", headline=True, title="box AP"),
    Metric("segm_mAP", title="mask AP"),
    Metric("bbox_*", words="boxes"),
    Metric("segm_*", words="masks"),
    Metric("mAP", headline=True, title="AP"),
    Metric("AR*", words="average recall"),
    Metric("AP*", words="average precision"),
    Metric("PQ", "percent", headline=True, title="panoptic quality"),
    Metric("PQ_*", "percent"),
    Metric("SQ*", "percent"),
    Metric("RQ*", "percent"),
)
MMSEG = (
    Metric("mIoU", "percent", headline=True),
    *(Metric(name, "percent") for name in ("aAcc", "mAcc", "mDice", "mFscore", "mPrecision")),
    Metric("mRecall", "percent"),
)
BY_PACKAGE = {"mmdet": COCO, "mmseg": MMSEG}


def declared_by(metric: Any) -> tuple[Metric, ...]:
    """The declarations of an evaluator's metric object: its own, `declared`, or its package's."""
    package = type(metric).__module__.partition(".")[0]
    return getattr(metric, "declared", None) or BY_PACKAGE.get(package, ())
