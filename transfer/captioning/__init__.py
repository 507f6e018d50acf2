"""Captions of images: importing this package registers model, data, metric and hook."""

from transfer.captioning import dataset, evaluator, hooks, model  # noqa: F401
