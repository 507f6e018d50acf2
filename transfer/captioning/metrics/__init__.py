"""Scores of captions, on the scales of coco-caption and pycocoevalcap."""

from transfer.captioning.metrics.scores import score

__all__ = ["score"]
