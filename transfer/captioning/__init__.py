"""Captions of images: importing this package registers model, data, metric and hook."""

from transfer.captioning import (  # noqa: F401
    buckets,
    dataset,
    evaluator,
    few_shot,
    flamingo,
    hooks,
    model,
    pairs,
    preprocessor,
    vqa,
)
