"""A scene as a sample with boxes (see `data.elements`), for objectives that train on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparc_pretrain.data.scenes.phrases import phrases_of
from sparc_pretrain.data.scenes.render import Scene

Json = dict[str, Any]


def sample_record(scene: Scene, image_id: int, file_name: str) -> Json:
    """One image's entry of ``elements_{split}.json``: {file_name, sample}.

    Every object is an element: its texts are the captions' phrases that mean it alone, then its
    category, its label the category. The product is the kind of the largest object, as
    category-colour-texture, and the saliency that object's box.
    """
    texts: list[list[str]] = [[] for _ in scene.objects]
    for caption in scene.captions:
        for start, end, meant in phrases_of(caption, scene):
            said = caption[start:end]
            if len(meant) == 1 and said not in texts[meant[0]]:
                texts[meant[0]].append(said)
    height, width = scene.semantic.shape
    elems = [
        {"box": _numbers(thing.box), "text": [*said, thing.name], "label": thing.name}
        for thing, said in zip(scene.objects, texts, strict=True)
    ]
    largest = max(scene.objects, key=lambda thing: np.count_nonzero(thing.mask))
    sample = {
        "captions": list(scene.captions),
        "width": width,
        "height": height,
        "image_id": f"scenes/{image_id}",
        "product_id": f"{largest.name}-{largest.colour}-{largest.texture}",
        "saliency": _numbers(largest.box),
        "elems": elems,
    }
    return {"file_name": file_name, "sample": sample}


def _numbers(box: tuple[int, int, int, int]) -> list[float]:
    return [float(value) for value in box]
