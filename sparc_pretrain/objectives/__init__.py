"""One file per method; importing the package registers them all."""

from sparc_pretrain.objectives import clip, sparc

__all__ = ["clip", "sparc"]
