"""A caption over its own image and over others, in every way that a model's words can be read.

A word that gathers as much elsewhere as in its own image says nothing of it: what counts is the
difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import Tensor

from sparc_pretrain.data.image_folder import image_files
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.run_folder import RunFolder
from sparc_pretrain.zeroshot.alignment import WordWeights, align
from sparc_pretrain.zeroshot.encode import PooledCosine

TITLES = {
    "tokens": "Words in context",
    "words": "Words alone",
    "phrase": "Phrases",
}
OTHERS = 4  # images that a caption is held against when none are named
# what a phrase's pointing is called in grounding's records, and what its chance is
POINTING = ("phrase_local_pointing", "chance_random_patch_pointing", "chance_centre_pointing")


@dataclass(frozen=True)
class Reading:
    """One way to read a caption: `own`, its words over its image; `others`, the same over each
    other image; `trained`, whether it is the one that the objective trains.
    """

    name: str
    trained: bool
    own: list[WordWeights]
    others: list[list[WordWeights]]

    def elsewhere(self, number: int) -> float | None:
        """The mean score of word `number` over the other images, None where there are none."""
        return fmean(words[number].score for words in self.others) if self.others else None

    def gap(self, number: int) -> float | None:
        """Its own score above that."""
        elsewhere = self.elsewhere(number)
        return None if elsewhere is None else self.own[number].score - elsewhere

    def stands_out(self, number: int) -> bool:
        """Whether its own score is above that of every other image."""
        return bool(self.others) and all(
            self.own[number].score > words[number].score for words in self.others
        )


def read(
    model: DualEncoder,
    objective: Objective | None,
    image: Tensor,
    others: Sequence[Tensor],
    caption: str,
) -> list[Reading]:
    """Every reading that the model has, the trained one first; marks (commas) are left out, and
    readings without a word.

    Args: image, others: [3,H,W] uint8 of any sizes.
    """
    trained = (objective or PooledCosine()).word_features
    found = []
    for name in dict.fromkeys((trained, *TITLES)):
        try:
            seen = [
                [
                    word
                    for word in align(model, one, caption, objective=objective, reading=name)
                    if word.word[0].isalnum()
                ]
                for one in (image, *others)
            ]
        except ValueError as error:
            if "choose another reading" in str(error):
                continue
            raise
        if seen[0]:
            found.append(Reading(name, name == trained, seen[0], seen[1:]))
    return found


def neighbours(image: Path, count: int = OTHERS) -> list[Path]:
    """Other images of the folder of `image`, those that follow it, round and round."""
    files = image_files(image.parent, below=False)[0]
    names = [file.name for file in files]
    at = names.index(image.name) if image.name in names else 0
    return [file for file in files[at + 1 :] + files[:at] if file.name != image.name][:count]


def measured(run: RunFolder) -> dict[str, float] | None:
    """How often a phrase points into its object, and what one gets without looking, as
    `sparc zeroshot RUN grounding` wrote it beside this run; None where it did not.

    Returns: 'pointing', 'chance' (a random patch), 'centre', and 'phrases', how many, if told.
    """
    for file in sorted(run.path.parent.glob("zeroshot/**/metrics.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        metrics = record.get("metrics") or {}
        of_this = (record.get("backbone") or {}).get("sha256") == run.sha256
        if of_this and all(metrics.get(name) is not None for name in POINTING[:2]):
            values = [metrics.get(name) for name in POINTING]
            found = dict(zip(("pointing", "chance", "centre"), values, strict=True))
            found["phrases"] = metrics.get("phrases") or (record.get("protocol") or {}).get(
                "phrases"
            )
            return {name: value for name, value in found.items() if value is not None}
    return None
