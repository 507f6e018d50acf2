"""UNITER: words and regions in one stream (Chen et al., arXiv 1909.11740).

Suffixes: B images, T tokens, R regions, F width of a region's vector, H width of texts and fusion,
M masked places, C classes (0 = background).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparc_pretrain import chance
from sparc_pretrain.chance import Stream
from sparc_pretrain.distributed import gather_padded, own_rows
from sparc_pretrain.objectives.concepts import mean_of
from sparc_pretrain.objectives.masking import choose_independently, hide_words, masked_lm_loss
from sparc_pretrain.objectives.matching import matching_loss
from sparc_pretrain.objectives.regions import (
    RegionEmbedder,
    RegionHeads,
    Seen,
    blanked,
    class_targets,
    classification_loss,
    divergence_loss,
    regression_loss,
    seen_of,
)
from sparc_pretrain.objectives.single_stream import CELLS, PooledHead, SingleStream, draw_partners
from sparc_pretrain.objectives.terms import anchored, share_of
from sparc_pretrain.objectives.transport import NEGATIVES, alignment_loss, plan_of
from sparc_pretrain.objectives.transport import transport_distance as distance_of
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures, Views, Words

__all__ = ["Uniter", "class_targets", "classification_loss", "divergence_loss", "regression_loss"]
OF_REGIONS = ("mrfr", "mrc", "mrc_kl")
WRA = 0.1  # released weight


@OBJECTIVES.register_module()
class Uniter(SingleStream):
    """MLM, ITM with WRA, MRFR, MRC, MRC-kl: either words or regions are masked, never both.

    Words are the states of a text tower of 0 layers. A region is LN(LN(W f) + LN(W geometry)), the
    embedding of its kind added by the fusion encoder.

    Args:
        tasks: shares of `itm, mlm, mrfr, mrc, mrc_kl`, one of which is trained in a step; None =
            the sum of all terms in every step, of MRC's only where there are classes.
        weights: of the terms `itm, wra, mlm, mrfr, mrc, mrc_kl`; 1, of `wra` 0.1.
        regions: 'online' = f is RoIAlign over our own tower's states; 'files' = it comes with the
            sample, `region_width` numbers, and no tower is trained.
        hidden: what a masked region hides: its vector ('feature'; the tower's other states may know
            it), or its 'pixels', before a second pass of the tower. Its geometry stays.
        target: MRFR's: the clean vector, of the tower ('self': it moves) or of the one that
            training started from ('frozen', the default with `model.init_from`).
        labels: class names, of 'online': classes are regions' labels, smoothed by 0.1, so MRC-kl
            is MRC up to a constant. classes: their number, of files with probabilities.
        rate: share of masked words and regions, at least one. whole_words: words, not tokens.
        replace: what of an unmatched pair is another's: 'image' (released) or 'either' (paper).
        wra_negatives: see `alignment_loss`. reductions: `mrfr`, `mrc_kl`: 'released' or 'paper'.
        text_width, vision_width: of the Pretrainer. shared: see `SingleStream`.

    Raises ValueError for other names, classes that are missing, a tokenizer without a mask token.
    """

    tasks_of: ClassVar = {
        "itm": ("itm", "wra"),
        "mlm": ("mlm",),
        **{name: (name,) for name in OF_REGIONS},
    }
    choices: ClassVar = dict(
        regions=("online", "files"),
        hidden=("feature", "pixels"),
        target=("self", "frozen"),
        replace=("image", "either"),
        wra_negatives=NEGATIVES,
    )
    needs = ("regions", "mask_id")
    coupled_features = ("patch_states", "token_states")
    paired_features = ("patch_states", "token_states", "word_table")
    reading = CELLS

    def __init__(
        self,
        text_width: int,
        vision_width: int,
        tasks: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
        regions: str = "online",
        region_width: int = 2048,
        hidden: str = "feature",
        target: str = "self",
        labels: Sequence[str] = (),
        classes: int = 0,
        rate: float = 0.15,
        whole_words: bool = False,
        replace: str = "image",
        wra_negatives: str = "repel",
        reductions: Mapping[str, str] | None = None,
        **shared: Any,
    ) -> None:
        classes = len(labels) + 1 if labels else classes
        usual = dict(wra=WRA) | ({} if classes else dict(mrc=0.0, mrc_kl=0.0))
        super().__init__(text_width, tasks=tasks, weights={**usual, **(weights or {})}, **shared)
        self.check(
            regions=regions,
            hidden=hidden,
            target=target,
            replace=replace,
            wra_negatives=wra_negatives,
        )
        asked = [name for name in ("mrc", "mrc_kl") if name in {**(tasks or {}), **(weights or {})}]
        if asked and not classes:
            raise ValueError(f"Uniter: {asked[0]} needs classes: `labels`, or `classes` of files")
        self.online = regions == "online"
        if not self.online:
            self.sees_images = self.vision_trained = False
            self.coupled_features, self.paired_features = ("token_states",), ("word_table",)
        self.hidden, self.target, self.rate, self.whole = hidden, target, rate, whole_words
        self.replace, self.wra_negatives = replace, wra_negatives
        size = vision_width if self.online else region_width
        self.embed = RegionEmbedder(size, text_width)
        self.match_head = PooledHead(text_width, 2)
        self.region_heads = RegionHeads(text_width, size, classes, **(reductions or {}))

    @classmethod
    def needs_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Of files also vectors, and probabilities where classes are predicted; else labels."""
        named = {**(config.get("tasks") or {}), **(config.get("weights") or {})}
        classed = "mrc" in named or "mrc_kl" in named
        if config.get("regions", "online") == "online":
            return (*cls.needs, *(("label",) if classed else ()))
        return (*cls.needs, "region_state", *(("region_probs",) if classed else ()))

    def views(self, batch: Batch, step: int) -> Views:
        """Masked words, masked regions (never both in one pass), and the step."""
        moment, key, valid = (self.seed, step), batch.draw, batch.regions.valid
        mlm, mrm = self.terms.runs("mlm", step), self._masks_regions(step)
        candidates = batch.mask & ~batch.special & mlm
        ids, words = hide_words(
            *(batch.ids, batch.word, candidates, key, moment, self.mask_id, self.word_ids),
            kind="independent",
            rate=self.rate,
            whole_words=self.whole,
        )
        noise = chance.uniform(*moment, key, Stream.REGION_MASK, valid.shape[1])
        hidden = choose_independently(valid & mrm, noise, self.rate)
        named = hidden & (batch.regions.label > 0)
        found = Views(step=step).choose(words=words, regions=hidden, named=named)
        if mlm:
            found.texts["masked"] = Words(ids, batch.mask, batch.special)
        if mrm and self.online and self.hidden == "pixels":
            found.images["blanked"] = blanked(batch.image, batch.regions.box, hidden)
        if mrm and self.online and self.target == "frozen":
            found.taught = ("image",)
        return found

    def _masks_regions(self, step: int) -> bool:
        return any(self.terms.runs(task, step) for task in OF_REGIONS)

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """ITM, half of whose pairs are of two images, and WRA of the same pass."""
        losses: dict[str, Tensor] = {}
        if self.terms.runs("itm", batch.views.step):
            losses = self._match_losses(features, batch)
        return anchored(losses, features, self.coupled_features, self)

    def _match_losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        moment, key = (self.seed, batch.views.step), batch.draw
        coins = chance.uniform(*moment, key, Stream.MATCH, 2)
        donor = draw_partners(batch.image_id, key, moment, Stream.PARTNER)
        donor = torch.where(coins[:, 0] < 0.5, donor, -1)
        of_text = (coins[:, 1] < 0.5) & (self.replace == "either")
        seen = self.seen(features, batch)
        f, box, valid = seen.of(torch.where(of_text, -1, donor))
        text, mask = features.token_states, batch.mask
        if self.replace == "either":
            own = own_rows(len(key), key.device)
            rows = torch.where(of_text & (donor >= 0), donor, own)
            text, mask = (gather_padded(x)[rows] for x in (text, mask))
        words, regions = self._fused(text, mask, self.embed(f, box), valid)
        logits, match = self.match_head(words[:, 0]), donor < 0
        count = share_of(repel=torch.ones_like(match), ignore=match)
        losses = {"itm_loss": matching_loss(logits, match, divisor=count["repel"])}
        losses["itm_accuracy"] = mean_of(logits.argmax(dim=1) == match)
        if self.terms.weights["wra"]:
            distance = distance_of(words, regions, mask, valid)
            losses["wra_loss"] = alignment_loss(
                distance, match, self.wra_negatives, count[self.wra_negatives]
            )
            losses["wra_distance"] = mean_of(distance.detach(), match)
            losses["wra_distance_unmatched"] = mean_of(distance.detach(), ~match)
        return self.terms.weighted(losses)

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """MLM with clean regions; MRFR, MRC and MRC-kl with clean words, in one pass."""
        step, every = batch.views.step, whole.views.drawn
        named = every["named" if self.online else "regions"]
        shares = share_of(mlm=every["words"], mrfr=every["regions"], mrc=named)
        losses: dict[str, Tensor] = {}
        if self.terms.runs("mlm", step):
            text, seen = features.views["masked"], self.seen(features, batch)
            regions, at = self.embed(seen.state, seen.box), batch.views.places("words")
            states = self._fused(text.token_states, text.mask, regions, seen.valid)[0]
            logits = self.word_head(states.flatten(0, 1)[at], features.word_table)
            right = batch.ids.flatten()[at]
            losses["mlm_loss"] = masked_lm_loss(logits, right, shares["mlm"])
            losses = self.terms.weighted(losses)
            losses["mlm_accuracy"] = mean_of(logits.argmax(dim=1) == right)
        if self._masks_regions(step):
            losses |= self._region_losses(features, batch, shares, step)
        return anchored(losses, features, self.paired_features, self)

    def _region_losses(
        self, features: Features, batch: Batch, shares: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        """Of what the masked regions show, and of which class it is."""
        drawn, clean = batch.views.drawn, self.seen(features, batch)
        given, wanted = clean.state, clean.state.detach()
        if "blanked" in features.views:
            given = seen_of(features.views["blanked"].patch_states, batch.regions).state
        if "taught_image" in drawn:
            wanted = seen_of(drawn["taught_image"], batch.regions).state
        tokens = self.embed(given, clean.box, drawn["regions"])
        text = features.token_states
        states = self._fused(text, batch.mask, tokens, clean.valid)[1].flatten(0, 1)
        hidden = batch.views.places("regions")
        losses: dict[str, Tensor] = {}
        if self.terms.runs("mrfr", step):
            weight = self.embed.project.weight
            truth = wanted.flatten(0, 1)[hidden]
            losses |= self.region_heads.regress(states[hidden], weight, truth, shares["mrfr"])
            losses["mrfr_target_std"] = _spread(wanted, clean.valid)  # near 0: it has collapsed
        classed = [t for t in ("mrc", "mrc_kl") if self.terms.runs(t, step)]
        if classed:
            named = batch.views.places("named") if self.online else hidden
            probs = None if self.online else batch.regions.probs.flatten(0, 1)[named]
            given = (states[named], batch.regions.label.flatten()[named], probs)
            losses |= self.region_heads.classify(*given, shares["mrc"], classed)
        return self.terms.weighted(losses)

    def seen(self, features: ImageFeatures, batch: Batch) -> Seen:
        """The regions of a batch."""
        return seen_of(features.patch_states if self.online else None, batch.regions)

    def _fused(
        self, text: Tensor, mask: Tensor, regions: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.fuse(text, mask, regions, valid)

    # ------------------------------------------------------------ how it is read

    def _seen(self, image: ImageFeatures) -> Seen:
        if not self.online:
            raise ValueError("a UNITER of region vectors from files cannot read pictures")
        return seen_of(image.patch_states, image.regions)

    def image_tokens(self, image: ImageFeatures) -> tuple[Tensor, Tensor]:
        """Regions."""
        seen = self._seen(image)
        return self.embed(seen.state, seen.box), seen.valid

    def plan(self, image: ImageFeatures, text: TextFeatures) -> tuple[Tensor, Seen]:
        """The transport plan [n,T,R] of aligned rows, and the regions."""
        seen = self._seen(image)
        tokens = self.embed(seen.state, seen.box)
        words, regions = self._fused(text.token_states, text.mask, tokens, seen.valid)
        return plan_of(words, regions, text.mask, seen.valid), seen

    def ground(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Of the given regions (4 x 4 cells where there are none) the one [n,4] that gets most of
        the plan's mass on the words; it cannot predict another.
        """
        plan, seen = self.plan(image, text)
        return seen.most(plan, text.mask & ~text.special)

    def look(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """The plan [n,T,P] of aligned rows, a region's mass spread over its patches."""
        plan, seen = self.plan(image, text)
        return seen.spread(plan, image.patch_states)


def _spread(states: Tensor, valid: Tensor) -> Tensor:
    """The standard deviation of channels of states [B,R,F], the valid [B,R] ones, on average."""
    states, valid = states.float(), valid[..., None].float()
    count = valid.sum().clamp(min=1)
    mean = (states * valid).sum(dim=(0, 1)) / count
    return (((states - mean).square() * valid).sum(dim=(0, 1)) / count).sqrt().mean()
