"""What each term of X-VLM, UNITER, Oscar and Kaleido-BERT has learnt of a batch, as a number that
is higher the better, with what a model without any idea gets.

Accuracies are shares. `gain`: nats below the loss of a guess. `explained`: the share of the error
of the best constant answer (the mean of the batch's targets) that is gone; below 0 = worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sparc_pretrain.objectives import kaleido, oscar, uniter, xvlm
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.mosaic import SLICES, colours
from sparc_pretrain.objectives.regions import divergence_loss, regression_loss, smoothed
from sparc_pretrain.types import Batch, Features
from sparc_pretrain.zeroshot.terms.pairs import where_said


class Value(NamedTuple):
    """A number of a batch, and what is got without an idea of the answer (NaN: not known)."""

    number: float
    chance: float = math.nan


Values = dict[str, Value]


@dataclass(frozen=True)
class Asked:
    """What is asked for: `words`, their ids, of hidden words (None: all); `classes`, names from
    number 1 on.
    """

    words: Sequence[Sequence[int]] | None = None
    classes: Sequence[str] = ()

    def hidden(self, shown: Tensor, ids: Tensor, mask_id: int) -> Tensor:
        """Which tokens of texts `ids` are such words and hidden whole in the text `shown`."""
        said = torch.ones_like(ids, dtype=torch.bool)
        if self.words is not None:
            said = where_said(ids, self.words)
        return said & (shown == mask_id)

    def named(self, label: Tensor, captions: Sequence[str]) -> Tensor:
        """Which regions, of classes `label` [B,R], the captions of their images name."""
        rows = zip(label.tolist(), captions, strict=True)
        said = [[n > 0 and self.classes[n - 1] in text for n in row] for row, text in rows]
        return torch.tensor(said, device=label.device)


def redrawn(batch: Batch, **drawn: Tensor) -> Batch:
    """The batch with other masks: which of the hidden things are asked for."""
    return replace(batch, views=batch.views.choose(**drawn))


def of_xvlm(objective: xvlm.Xvlm, features: Features, batch: Batch, asked: Asked) -> Values:
    """ITC, ITM, MLM, box."""
    ids = batch.concepts.ids
    words = asked.hidden(batch.views.texts["masked"].ids, ids, objective.mask_id)
    batch = redrawn(batch, chosen=words, masked=words.any(dim=2))
    told, weights = _numbers(objective(features, batch)), objective.weights
    found: Values = {}
    if weights["itc"]:
        valid = int(batch.concepts.valid.sum())
        found["itc_gain"] = Value(math.log(valid) - told["itc_loss"] / weights["itc"], 0.0)
    if weights["itm"]:
        found["itm_accuracy"] = Value(told["itm_accuracy"], 2 / 3)
    if weights["mlm"] and words.any():
        found["mlm_accuracy"] = Value(told["mlm_accuracy"], _commonest(ids[words]))
    if "box_iou" in told:
        found["box_IoU"] = Value(told["box_iou"])
    return found


def of_uniter(objective: uniter.Uniter, features: Features, batch: Batch, asked: Asked) -> Values:
    """MLM, ITM, WRA; MRFR, MRC and MRC-kl where they are trained."""
    drawn, weights = batch.views.drawn, objective.terms.weights
    words = asked.hidden(batch.views.texts["masked"].ids, batch.ids, objective.mask_id)
    regions = drawn["regions"]
    batch = redrawn(batch, words=words)
    told = _numbers(objective(features, batch))
    found = {"itm_accuracy": Value(told["itm_accuracy"], 0.5)}
    if words.any():
        found["mlm_accuracy"] = Value(told["mlm_accuracy"], _commonest(batch.ids[words]))
    if "wra_distance" in told:
        gap = told["wra_distance_unmatched"] - told["wra_distance"]
        found["wra_gap"] = Value(gap, 0.0)
    if weights["mrfr"]:
        wanted = objective.seen(features, batch).state[regions]
        constant = wanted.mean(dim=0, keepdim=True).expand_as(wanted)
        worst = regression_loss(constant, wanted, objective.region_heads.mrfr)
        found["mrfr_explained"] = _explained(told["mrfr_loss"] / weights["mrfr"], worst)
    label = batch.regions.label
    if weights["mrc_kl"]:
        logits = features.token_states.new_zeros(1, len(asked.classes) + 1)
        probs = smoothed(label[regions & (label > 0)], logits)
        constant = probs.mean(dim=0).log().expand_as(probs)
        worst = divergence_loss(constant, probs, objective.region_heads.mrc_kl)
        found["mrc_kl_explained"] = _explained(told["mrc_kl_loss"] / weights["mrc_kl"], worst)
    if weights["mrc"]:
        named = regions & asked.named(label, batch.caption)
        if named.any():
            asking = redrawn(batch, regions=named, named=named)
            told = _numbers(objective.paired(features, asking, asking))
            found["mrc_accuracy"] = Value(told["mrc_accuracy"], _commonest(label[named]))
    return found


def of_oscar(objective: oscar.Oscar, features: Features, batch: Batch, asked: Asked) -> Values:
    """Masked words and masked tags of rows with their own tags, and pollution."""
    drawn, found = batch.views.drawn, {}
    hidden = asked.hidden(batch.views.texts["joined"].ids, drawn["right"], objective.mask_id)
    hidden &= (drawn["kind"] == oscar.OWN)[:, None]
    for name, segment in (("mtl_word_accuracy", 0), ("mtl_tag_accuracy", 1)):
        some = hidden & (drawn["segment"] == segment)
        if some.any():
            told = _numbers(objective.paired(features, *[redrawn(batch, chosen=some)] * 2))
            found[name] = Value(told["mtl_accuracy"], _commonest(drawn["right"][some]))
    told = _numbers(objective.paired(features, batch, batch))
    return found | {"pollution_accuracy": Value(told["pollution_accuracy"], 0.5)}


def of_kaleido(
    objective: kaleido.Kaleido, features: Features, batch: Batch, asked: Asked
) -> Values:
    """AMLM, ITM, rotation, jigsaw, camouflage; grey and blank against the vectors that the
    corrupted patches have themselves.
    """
    drawn, views, images = batch.views.drawn, features.views, batch.views.images
    hidden = asked.hidden(batch.views.texts["masked"].ids, batch.ids, objective.mask_id)
    match = drawn["match"]
    batch = redrawn(batch, amlm=hidden & match[:, None])
    told = _numbers(objective(features, batch))
    guess = dict(itm=1 / 2, rotation=1 / 4, jigsaw=1 / 24, camouflage=1 / 9)
    keys = {f"{name}_accuracy": chance for name, chance in guess.items()}
    found = {key: Value(told[key], chance) for key, chance in keys.items() if key in told}
    words = batch.views.drawn["amlm"]
    if words.any():
        found["amlm_accuracy"] = Value(told["amlm_accuracy"], _commonest(batch.ids[words]))
    for name, level in (("grey", 4), ("blank", 5)):
        if f"{name}_loss" not in told:
            continue
        rows, pixels = match | objective.unmatched, objective.target == "pixels"
        there = drawn["patches"][:, SLICES[level - 1]] & rows[:, None]
        if name == "grey":
            wanted = drawn["colours_grey"] if pixels else views["clean"].patch_states
            kept = colours(images["level4"]) if pixels else views["level4"].patch_states
            wanted, kept = wanted[rows].flatten(0, 1), kept[there]
        else:
            wanted = drawn["colours_blank"] if pixels else views["level5"].patch_states
            wanted = wanted[there]
            kept = torch.zeros_like(wanted)
        if objective.standardise:
            wanted, kept = kaleido.standardised(wanted), kaleido.standardised(kept)
        mean = wanted.softmax(dim=1).mean(dim=0).log().expand_as(wanted)
        worst = kaleido.divergence(mean, wanted)
        loss = told[f"{name}_loss"] / objective.terms.weights[name]
        chance = _explained(kaleido.divergence(kept, wanted).item(), worst).number
        found[f"{name}_explained"] = Value(_explained(loss, worst).number, max(0.0, chance))
    return found


READINGS: dict[type[Objective], Callable[..., Values]] = {
    xvlm.Xvlm: of_xvlm,
    uniter.Uniter: of_uniter,
    oscar.Oscar: of_oscar,
    kaleido.Kaleido: of_kaleido,
}


def _explained(loss: float, worst: Tensor) -> Value:
    """NaN where all answers are alike: there is nothing to explain."""
    return Value(1 - loss / worst.item() if worst > 0 else math.nan, 0.0)


def _commonest(ids: Tensor) -> float:
    """How often the most frequent answer is right."""
    return ids.unique(return_counts=True)[1].max().item() / len(ids)


def _numbers(told: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in told.items()}
