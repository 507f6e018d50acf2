"""X-VLM: concepts of every grain (Zeng et al., arXiv 2111.08276).

A concept is an image, a box in it and a text; slot 0 of an image is the whole of it with its
caption. Suffixes: B images, K concepts of each, P patches, T tokens, n own and N all concepts, D
shared width, H width of texts and fusion. `scale` = 1/tau.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparc_pretrain import chance
from sparc_pretrain.chance import Stream
from sparc_pretrain.distributed import gather, gather_padded, own_rows, total, world_size
from sparc_pretrain.objectives.base import Writer
from sparc_pretrain.objectives.boxes import box_loss, centred, corners, iou
from sparc_pretrain.objectives.concepts import (
    SAME,
    boxed,
    cells_of,
    concept_contrast,
    head,
    mean_of,
)
from sparc_pretrain.objectives.contrastive import Temperature
from sparc_pretrain.objectives.masked import MaskedObjective
from sparc_pretrain.objectives.masking import MASKS, hide_words, masked_lm_loss
from sparc_pretrain.objectives.matching import hard_pairs, matching_loss, nested, strangers
from sparc_pretrain.objectives.terms import anchored
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.towers.fusion import FusionEncoder
from sparc_pretrain.towers.fusion_pairs import fuse
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures, Views, Words

BUCKETS = 1024  # of word ids, see `nested`


@OBJECTIVES.register_module()
class Xvlm(MaskedObjective):
    """ITC + ITM + MLM + box L1 + box GIoU, a sum with `weights`, one learned temperature.

    What a step draws (masks, hard negatives) is a function of (seed, step, sample): the same for
    any number of micro-batches and processes; dropout of the fusion encoder is not.

    Args:
        fusion: `layers`, `heads` (and `dropout`) of the FusionEncoder.
        same: see `concept_contrast`; ITM never takes equal texts or another concept of the image.
        nested: a text whose words are all in the concept's own, or the other way round ("a house",
            "a blue house"), is in ITM a 'negative' (released) or 'ignore'd: it may be true.
        negatives: 'global' = hard negatives of all processes; 'rank' = of its own, which depends on
            their number and spares the exchange of states.
        mask: `kind` 'budget' (released: `rate` .25, at most 8, whole words, n-grams) or
            'independent' (paper: each token at `rate`).
        score: what `match` gives: 'odds' = logit of match less that of no match, 'logit' = the
            first alone (released).
        text_width, vision_width, vocab_size: of the Pretrainer. shared: see `MaskedObjective`;
            tasks are `itc, itm, mlm, box`, terms the same but for `box_l1, box_giou`.

    Raises ValueError for other names, and a tokenizer without a mask token.
    """

    tasks_of: ClassVar = dict(itc=("itc",), itm=("itm",), mlm=("mlm",), box=("box_l1", "box_giou"))
    choices: ClassVar = {
        "mask of": MASKS,
        "same": SAME,
        "negatives": ("global", "rank"),
        "nested": ("negative", "ignore"),
        "score": ("odds", "logit"),
    }
    needs = ("concepts", "mask_id")
    coupled_features = ("concept", "concept_text", "patch_states", "concept_states")
    paired_features = ("patch_states", "concept_states", "masked_states", "word_table")

    def __init__(
        self,
        text_width: int,
        vision_width: int,
        vocab_size: int,
        fusion: Mapping[str, Any] | None = None,
        same: str = "ignore",
        negatives: str = "global",
        nested: str = "negative",
        mask: Mapping[str, Any] | None = None,
        score: str = "odds",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.mask = dict(kind="budget", rate=0.25) | dict(mask or {})
        given = {"same": same, "negatives": negatives, "nested": nested, "score": score}
        self.check(**given, **{"mask of": self.mask["kind"]})
        self.weights = self.terms.weights
        self.same, self.negatives, self.score = same, negatives, score
        self.nested, self.buckets = nested, min(vocab_size, BUCKETS)
        self.temperature = Temperature()
        self.fusion = FusionEncoder(
            width=text_width,
            image_width=vision_width,
            **dict(layers=6, heads=12) | dict(fusion or {}),
        )
        self.match_head = head(text_width, 2)
        self.box_head = head(text_width, 4)
        self.word_head = nn.Sequential(
            nn.Linear(text_width, text_width), nn.GELU(), nn.LayerNorm(text_width)
        )
        self.word_bias = nn.Parameter(torch.zeros(vocab_size))

    def views(self, batch: Batch, step: int) -> Views:
        """The masked texts of the concepts, which of their tokens were chosen, and the step."""
        concepts = batch.concepts
        size = concepts.valid.shape
        candidates = concepts.mask & ~concepts.special & concepts.valid[..., None]
        ids, chosen = hide_words(
            concepts.ids.flatten(0, 1),
            concepts.word.flatten(0, 1),
            candidates.flatten(0, 1) & self.terms.runs("mlm", step),
            chance.member_keys(batch.draw, size[1]).flatten(),
            (self.seed, step),
            self.mask_id,
            self.word_ids,
            **self.mask,
        )
        ids, chosen = ids.unflatten(0, size), chosen.unflatten(0, size)
        masked, boxes = chosen.any(dim=2), boxed(concepts) & self.terms.runs("box", step)
        text = Words(ids, concepts.mask & masked[..., None], concepts.special)
        return Views(texts={"masked": text}, step=step).choose(
            chosen=chosen,
            masked=masked,
            boxes=boxes,
            texts=concepts.mask.any(dim=2),
            valid=concepts.valid,
        )

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """ITC and ITM."""
        step, concepts, scale = batch.views.step, batch.concepts, self.temperature()
        losses: dict[str, Tensor] = {"scale": scale.detach()}
        if self.terms.runs("itc", step):
            loss = concept_contrast(
                features.concept.flatten(0, 1),
                features.concept_text.flatten(0, 1),
                scale,
                concepts.valid.flatten(),
                concepts.text_id.flatten(),
                self.same,
            )
            losses["itc_loss"] = self.weights["itc"] * loss
        if self.terms.runs("itm", step):
            losses.update(self._match_loss(features, batch, scale.detach(), step))
        return anchored(losses, features, self.coupled_features, self)

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """MLM and the box terms, in one pass of the fusion encoder: an image is read once.

        MLM sees a concept's own cells, the box terms all cells (or the answer were the mask).
        """
        concepts, views = batch.concepts, batch.views
        words, boxes = (views.totals[name] / world_size() for name in ("chosen", "boxes"))
        masked, wanted = views.places("masked"), views.places("boxes")
        size, per_image = concepts.valid.numel(), concepts.valid.shape[1]
        cells = cells_of(concepts.box, concepts.valid, features.patch_states)
        fused = fuse(
            self.fusion,
            torch.cat([features.masked_states, features.concept_states]).flatten(0, 1),
            concepts.mask.flatten(0, 1).repeat(2, 1),
            features.patch_states,
            torch.cat([cells, torch.ones_like(cells[:1])]),
            text_row=torch.cat([masked, wanted + size]),
            image_row=torch.cat([masked, wanted]) // per_image,
            cell_row=torch.cat([masked, torch.full_like(wanted, size)]),
            block=self.block,
        )
        losses: dict[str, Tensor] = {}
        if words:
            at, length = views.places("chosen"), concepts.ids.shape[2]
            # of which of the masked texts, and where in it
            owner = torch.searchsorted(masked, at // length)
            logits = self.word_logits(fused[owner, at % length], features.word_table)
            right = concepts.ids.flatten()[at]
            losses["mlm_loss"] = self.weights["mlm"] * masked_lm_loss(logits, right, words)
            losses["mlm_accuracy"] = mean_of(logits.argmax(dim=1) == right)
        if boxes:
            predicted = self.boxes(fused[len(masked) :, 0])
            truth = concepts.box.to(predicted.dtype).flatten(0, 1)[wanted]
            there = torch.ones_like(wanted, dtype=torch.bool)
            l1, overlap = box_loss(predicted, centred(truth), there, boxes)
            losses["box_l1_loss"] = self.weights["box_l1"] * l1
            losses["box_giou_loss"] = self.weights["box_giou"] * overlap
            losses["box_iou"] = mean_of(iou(corners(predicted.detach()), truth))
        return anchored(losses, features, self.paired_features, self)

    def _match_loss(
        self, features: Features, batch: Batch, scale: Tensor, step: int
    ) -> dict[str, Tensor]:
        """ITM: every valid concept, a hard text for its image, a hard image for its text; a hard
        image brings its own box.
        """
        concepts, everywhere = batch.concepts, self.negatives == "global"
        spread = gather if everywhere else lambda x: x
        padded = partial(gather_padded, dim=2) if everywhere else lambda x: x
        patches, texts = spread(features.patch_states), padded(features.concept_states)
        masks, valid = padded(concepts.mask), spread(concepts.valid.byte()).bool().flatten()
        cells = cells_of(spread(concepts.box), valid.unflatten(0, (len(patches), -1)), patches)
        count = concepts.valid.shape[1]
        key = chance.member_keys(batch.draw, count).flatten()
        image = batch.image_id.repeat_interleave(count)
        group, keys = concepts.text_id.flatten(), spread(key)
        allowed = strangers(image, spread(image), group, spread(group)) & valid
        if self.nested == "ignore":
            ids, words = concepts.ids, concepts.mask & ~concepts.special
            both = (ids, words, padded(ids), padded(words))
            allowed &= ~nested(*(x.flatten(0, 1) for x in both), self.buckets)
        sides = [x.detach().flatten(0, 1) for x in (features.concept, features.concept_text)]
        streams = (Stream.HARD_TEXT, Stream.HARD_IMAGE)
        noise = [chance.pairs(self.seed, step, key, keys, stream) for stream in streams]
        others = [spread(side) for side in sides]
        own = own_rows(len(key), key.device) if everywhere else torch.arange(len(key)).to(key)
        here = batch.views.places("valid")
        pairs = hard_pairs(sides, others, scale, valid, allowed, noise, own, here)
        fused = fuse(
            self.fusion,
            texts.flatten(0, 1),
            masks.flatten(0, 1),
            patches,
            cells,
            text_row=pairs.text,
            image_row=pairs.concept // count,
            cell_row=pairs.concept,
            block=self.block,
        )
        logits = self.match_head(fused[:, 0])
        formed = total(pairs.there.sum().double()).clamp(min=1)
        loss = matching_loss(logits, pairs.match, pairs.there, formed / world_size())
        # a rank without a pair still owes the others its part of the exchange
        loss = loss + 0 * (patches.sum() + texts.sum())
        right = logits.argmax(dim=1) == pairs.match
        return {"itm_loss": self.weights["itm"] * loss, "itm_accuracy": mean_of(right, pairs.there)}

    def word_logits(self, states: Tensor, word_table: Tensor) -> Tensor:
        """Fused states [M,H] -> logits [M,V] of the vocabulary, tied to its embeddings [V,H]."""
        return self.word_head(states) @ word_table.T.to(states.dtype) + self.word_bias

    def boxes(self, states: Tensor) -> Tensor:
        """Fused begin states [n,H] -> boxes [n,4] as cx cy w h in 0..1."""
        return self.box_head(states).sigmoid()

    def begin(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """The fused begin state [n,H] of aligned rows, all cells seen."""
        return self.fusion(*_sides(image, text))[0][:, 0]

    def writer(self, image: ImageFeatures) -> Writer:
        """As a decoder; an image is read once for all its texts, all cells seen."""
        read, states = self.fusion.read(image.patch_states), image.patch_states
        cells = states.new_ones(states.shape[:2]).bool()

        def fused(states: Tensor, mask: Tensor, owner: Tensor) -> Tensor:
            return self.fusion(states, mask, read, cells[owner], owner, causal=True)[0]

        return fused

    def match(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How well row i of the images and row i of the texts match: log-odds [n]."""
        no, yes = self.match_head(self.begin(image, text)).unbind(dim=1)
        return yes if self.score == "logit" else yes - no

    def ground(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Where row i of the images shows what row i of the texts says [n,4]: x0 y0 x1 y1 in
        0..1.
        """
        return corners(self.boxes(self.begin(image, text))).clamp(0, 1)

    def look(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Cross-attention of the last layer [n,T,P], aligned rows."""
        return self.fusion.cross_weights(*_sides(image, text))


def _sides(image: ImageFeatures, text: TextFeatures) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the fusion encoder takes of aligned rows whose cells are all seen."""
    states = image.patch_states
    return text.token_states, text.mask, states, states.new_ones(states.shape[:2]).bool()
