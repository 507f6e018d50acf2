"""A run folder's vision tower as a backbone of mmdet and mmseg; importing registers it."""

from transfer.backbone import cached_features, layer_decay
from transfer.backbone.pyramid import SimplePyramid
from transfer.backbone.vit import SparcViT

__all__ = ["SimplePyramid", "SparcViT", "cached_features", "layer_decay"]
