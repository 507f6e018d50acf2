"""Which objects the phrases of a scene's captions mean, in the format of Flickr30k Entities' files.

A phrase is '[size] [colour] [texture] category' with its article, or a number and a plural. It
means every object that it fits: "a red star" in a scene with two red stars means both, whatever
relation the caption goes on to state.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sparc_pretrain.data.scenes.captions import NUMBERS, plural
from sparc_pretrain.data.scenes.paint import COLOURS, TEXTURES
from sparc_pretrain.data.scenes.render import SIZES, Scene
from sparc_pretrain.data.scenes.shapes import CATEGORIES

Json = dict[str, Any]


def _words(name: str, words: tuple[str, ...]) -> str:
    longest_first = sorted(words, key=len, reverse=True)
    return f"(?P<{name}>{'|'.join(map(re.escape, longest_first))})"


_PHRASE = re.compile(
    rf"\ban? (?:{_words('size', tuple(SIZES))} )?(?:{_words('colour', tuple(COLOURS))} )?"
    rf"(?:{_words('texture', TEXTURES)} )?{_words('category', CATEGORIES)}\b"
    rf"|\b{_words('number', NUMBERS[2:])} {_words('several', tuple(map(plural, CATEGORIES)))}\b"
)
_SINGULAR = {plural(name): name for name in CATEGORIES}


def phrases_of(caption: str, scene: Scene) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start, end, objects) of each phrase of `caption`: objects are positions in `scene.objects`.

    Raises ValueError for a phrase that no object fits: the caption is not of this scene.
    """
    found = []
    for match in _PHRASE.finditer(caption):
        said = {k: v for k, v in match.groupdict().items() if v is not None}
        said.pop("number", None)
        if "several" in said:
            said["category"] = _SINGULAR[said.pop("several")]
        said["name"] = said.pop("category")
        meant = tuple(
            number
            for number, thing in enumerate(scene.objects)
            if all(getattr(thing, key) == value for key, value in said.items())
        )
        if not meant:
            raise ValueError(f"no object of the scene is {match.group()!r}: {caption!r}")
        found.append((*match.span(), meant))
    return found


def phrase_record(scene: Scene, image_id: int, file_name: str) -> Json:
    """One image's entry of ``phrases_{split}.json``.

    As in the entities files: {image_id, file_name, width, height, sentences: [{text, phrases:
    [{chain, types, span}]}], boxes: {chain: [[x, y, w, h], ...]}}. A chain is a set of objects.
    ``masks`` (chain -> RLE of each box's object) is ours: the exact truth.
    """
    chains: dict[tuple[int, ...], str] = {}
    sentences = []
    for caption in scene.captions:
        phrases = []
        for start, end, meant in phrases_of(caption, scene):
            chain = chains.setdefault(meant, str(len(chains) + 1))
            phrases.append({"chain": int(chain), "types": ["object"], "span": [start, end]})
        sentences.append({"text": caption, "phrases": phrases})
    objects = {chain: [scene.objects[i] for i in meant] for meant, chain in chains.items()}
    height, width = scene.semantic.shape
    return {
        "image_id": image_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "sentences": sentences,
        "boxes": {c: [[float(v) for v in o.box] for o in own] for c, own in objects.items()},
        "masks": {c: [_rle(o.mask) for o in own] for c, own in objects.items()},
    }


def _rle(mask: np.ndarray) -> Json:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}
