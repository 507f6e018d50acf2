"""One file per method; importing the package registers them all."""

from sparc_pretrain.objectives import (
    clip,
    filip,
    gloria,
    kaleido,
    mgca,
    oscar,
    pacl,
    siglip,
    sparc,
    uniter,
    xvlm,
)

__all__ = [
    "clip",
    "filip",
    "gloria",
    "kaleido",
    "mgca",
    "oscar",
    "pacl",
    "siglip",
    "sparc",
    "uniter",
    "xvlm",
]
