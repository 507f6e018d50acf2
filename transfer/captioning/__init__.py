"""Captions of images: importing this package registers model, data, metric and hook."""

from transfer.captioning import hooks, vqa  # noqa: F401
from transfer.captioning.data import buckets, dataset, few_shot, pairs  # noqa: F401
from transfer.captioning.metrics import evaluator  # noqa: F401
from transfer.captioning.model import flamingo, fused, preprocessor  # noqa: F401
