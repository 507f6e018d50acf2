"""Scores by domain, where a caption file says which domain an image is of (NoCaps: in-domain,
near-domain, out-domain; Agrawal et al., ICCV 2019, arXiv 1812.08658).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparc_pretrain import json_file
from transfer.captioning.metrics import intervals, score


def read_domains(file: str | Path) -> dict[str, str]:
    """Image file name -> `domain` of a COCO captions JSON; empty for a file without domains."""
    path = Path(file)
    if path.suffix.lower() != ".json":
        return {}
    data = json_file.read(path)
    images = data.get("images") if isinstance(data, dict) else None
    found = {}
    for image in images if isinstance(images, list) else ():
        if not isinstance(image, dict):
            raise ValueError(f"{path}: its images are no objects")
        domain = image.get("domain")
        if isinstance(domain, str) and domain and "file_name" in image:
            found[image["file_name"]] = domain
    return found


def domain_scores(
    domains: Sequence[str | None],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    resamples: int = 0,
) -> dict[str, float]:
    """`NAME_DOMAIN` of each score of `metrics.score`: the images of a domain are a set of their
    own, with CIDEr's document frequencies of that domain, as in NoCaps' tables.

    Images whose domain is None are left out. With `resamples` also `CIDEr_DOMAIN_low` and `_high`.
    """
    found: dict[str, float] = {}
    for domain in sorted({one for one in domains if one is not None}):
        rows = [i for i, one in enumerate(domains) if one == domain]
        totals, items = score(
            [captions[i] for i in rows], [references[i] for i in rows], per_item=True
        )
        found |= {f"{name}_{domain}": value for name, value in totals.items()}
        if resamples:
            low, high = intervals.mean_interval(items["CIDEr"], resamples)
            found |= {f"CIDEr_{domain}_low": low, f"CIDEr_{domain}_high": high}
    return found
