"""Kaleido-BERT: captions and patches of five levels, hidden where they belong together (Zhuge et
al., arXiv 2103.16110).

Suffixes: B images, T tokens, 55 patches, F width of a patch's vector, H width of texts and fusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain import chance
from sparc_pretrain.chance import Stream
from sparc_pretrain.distributed import gather
from sparc_pretrain.objectives import mosaic
from sparc_pretrain.objectives.alignment import ALIGNED, BUDGET, aligned_patches, choose_aligned
from sparc_pretrain.objectives.concepts import mean_of
from sparc_pretrain.objectives.contrastive import full_precision, without_autocast
from sparc_pretrain.objectives.masking import corrupt, masked_lm_loss
from sparc_pretrain.objectives.matching import IGNORED, matching_loss
from sparc_pretrain.objectives.mosaic import LEVELS, SLICES, cut_out, level_side, patch_boxes
from sparc_pretrain.objectives.single_stream import PooledHead, SingleStream, draw_partners, taken
from sparc_pretrain.objectives.terms import anchored, share_of
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, Views, Words

__all__ = ["Kaleido", "aligned_patches", "choose_aligned", "divergence"]
NAMES = ("amlm", "itm", "rotation", "jigsaw", "camouflage", "grey", "blank")


@without_autocast
def divergence(predicted: Tensor, wanted: Tensor, divisor: Tensor | float | None = None) -> Tensor:
    """KL of softmax(wanted) [M,F] from softmax(predicted) [M,F] over `divisor` (None: M, at least
    1); no gradient to `wanted`.
    """
    wanted = full_precision(wanted.detach()).log_softmax(dim=-1)
    share = wanted.exp() * (wanted - full_precision(predicted).log_softmax(dim=-1))
    return share.sum() / (max(1, len(predicted)) if divisor is None else divisor)


def standardised(x: Tensor) -> Tensor:
    """Vectors [...,F] of mean 0 and variance 1."""
    return F.layer_norm(full_precision(x), x.shape[-1:])


class PatchEmbedder(nn.Module):
    """LN_level(W_level f + level + W geometry) of vectors [B,55,F] -> [B,55,H]; W of the geometry
    is one for all levels.
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(vision_width, width) for _ in range(LEVELS))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(LEVELS))
        self.level, self.place = nn.Embedding(LEVELS, width), nn.Linear(5, width)
        nn.init.trunc_normal_(self.level.weight, std=0.02)

    def forward(self, state: Tensor, boxes: Tensor) -> Tensor:
        """state [B,55,F], boxes [B,55,4] -> [B,55,H]."""
        place = self.place(mosaic.patch_geometry(boxes).to(self.place.weight.dtype))
        parts = zip(SLICES, self.project, self.norm, self.level.weight, strict=True)
        state = state.to(self.place.weight.dtype)
        return torch.cat(
            [norm(project(state[:, s]) + level + place[:, s]) for s, project, norm, level in parts],
            dim=1,
        )


@OBJECTIVES.register_module()
class Kaleido(SingleStream):
    """AMLM, ITM and five tasks of patches: rotation (level 1), jigsaw (2), camouflage (3), grey to
    colour (4), blank to colour (5), all of one pass.

    A patch's vector is the vision tower run on the patch itself, pooled. Half of the rows show the
    image of another product; they are corrupted as the others are (else ITM could be read off) and
    take part in ITM alone (but see `unmatched`). Geometry belongs to the slot: after jigsaw and
    rotation tokens keep their places'. Which tokens and patches are hidden follows the weights of
    `model.guide`, a frozen run; without one it is random (the paper's ablation: 299.5 against
    319.5). What a step draws is a function of (seed, step, sample), see `chance`; dropout of the
    fusion encoder is not.

    Args:
        rate: share of hidden tokens, 10 at most.
        target: what grey and blank patches are to become: the clean patch's vector by the tower
            ('self': it moves), or by that of `model.init_from` ('frozen', its default then), or its
            'pixels', mean colours of 8 x 8 cells, which need no tower and cannot collapse.
        unmatched: rows that show another product take part in the five tasks of patches, too
            (released code).
        standardise: those vectors have mean 0 and variance 1 before their softmax; the released
            code takes them raw.
        patch_px: side at which patches of levels 2 to 5 are read; 0 = about their own.
        text_width, vision_width, patch: of the Pretrainer. shared: see
            `SingleStream`; tasks and terms are `amlm, itm, rotation, jigsaw, camouflage, grey,
            blank`.

    Raises ValueError for other names, and a tokenizer without a mask token.
    """

    tasks_of: ClassVar = {name: (name,) for name in NAMES}
    choices: ClassVar = dict(target=("self", "frozen", "pixels"))
    needs = ("saliency", "mask_id")
    wants = ("product_id",)
    paired_features = ("token_states", "word_table")
    sees_images = False
    reading = "patches of the whole picture"

    def __init__(
        self,
        text_width: int,
        vision_width: int,
        patch: int = 16,
        rate: float = 0.15,
        target: str = "self",
        standardise: bool = True,
        unmatched: bool = False,
        patch_px: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(text_width, **shared)
        self.check(target=target)
        self.rate, self.target, self.standardise = rate, target, standardise
        self.patch, self.patch_px, self.unmatched = patch, patch_px, unmatched
        width, shown = text_width, mosaic.COLOURS if target == "pixels" else vision_width
        self.embed = PatchEmbedder(vision_width, width)
        self.match_head = PooledHead(width, 2)
        self.rotation = nn.Linear(width, 4)
        self.jigsaw = nn.Linear(4 * width, len(mosaic.ORDERS))
        self.camouflage = nn.Linear(9 * width, 9)
        self.grey = nn.Linear(width, shown, bias=False)
        self.blank = nn.Linear(width, shown, bias=False)

    def cut(self, image: Tensor, boxes: Tensor, level: int) -> Tensor:
        """The patches [B,n,3,s,s] of a level (1 to 5), of boxes [B,55,4]."""
        side = level_side(level, image.shape[-1], self.patch)
        side = self.patch_px if self.patch_px and level > 1 else side
        return cut_out(image, boxes[:, SLICES[level - 1]], side)

    def views(self, batch: Batch, step: int) -> Views:
        """Shown images as patches, some of them changed; captions with tokens hidden; the rest."""
        moment, key, runs = (self.seed, step), batch.draw, self.terms.runs
        coin, turn, order = (
            chance.uniform(*moment, key, stream, 1)[:, 0]
            for stream in (Stream.MATCH, Stream.TURN, Stream.PERMUTATION)
        )
        product, about = batch.product_id, batch.saliency
        others = gather(batch.image), gather(about)
        donor = draw_partners(product, key, moment, Stream.PARTNER)
        donor = torch.where((coin < 0.5) & runs("itm", step), donor, -1)
        image, box = (taken(x, y, donor) for x, y in zip((batch.image, about), others, strict=True))
        boxes, tokens, patches = patch_boxes(box)[0], *self._hidden(batch, step)
        decoy = draw_partners(product, key, moment, Stream.DECOY)
        decoy = torch.where(patches[:, SLICES[2]].any(dim=1), decoy, -1)
        turns = (turn * 4).long() * runs("rotation", step)
        label = (order * len(mosaic.ORDERS)).long() * runs("jigsaw", step)
        cut = {level: self.cut(image, boxes, level) for level in range(1, LEVELS + 1)}
        images, wanted = {}, {}
        if runs("grey", step):
            images["clean"] = mosaic.picked(cut[4], patches[:, SLICES[3]], BUDGET[1])
        if self.target == "pixels":
            given = {"grey": images.pop("clean", None), "blank": cut[5]}
            wanted = {f"colours_{k}": mosaic.colours(x) for k, x in given.items() if x is not None}
        cut[1] = mosaic.rotate(cut[1][:, 0], turns)[:, None]
        cut[2] = mosaic.shuffle(cut[2], label)
        strange = [taken(x, y, decoy) for x, y in zip((batch.image, about), others, strict=True)]
        place = torch.where(decoy >= 0, patches[:, SLICES[2]].byte().argmax(dim=1), -1)
        cut[3] = mosaic.swap(cut[3], self.cut(strange[0], patch_boxes(strange[1])[0], 3), place)
        cut[4] = mosaic.greyed(cut[4], patches[:, SLICES[3]])
        noise = chance.uniform(*moment, key, Stream.WORD_REPLACEMENT, 2 * batch.ids.shape[1])
        noise = noise.unflatten(1, (-1, 2))
        ids = corrupt(batch.ids, tokens, noise, self.mask_id, *self.word_ids)
        drawn = dict(match=donor < 0, boxes=boxes, place=place)
        drawn |= dict(tokens=tokens, patches=patches, turns=turns, order=label, **wanted)
        images |= {f"level{level}": pixels for level, pixels in cut.items()}
        texts = {"masked": Words(ids, batch.mask, batch.special)}
        taught = [n for n in ("clean", "level5") if self.target == "frozen" and n in images]
        found = Views(texts, images, drawn, taught=tuple(taught), still=("clean",), step=step)
        return found.choose(amlm=tokens & (donor < 0)[:, None])

    def _hidden(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Tokens [B,T] and patches [B,55] that are hidden, of the tasks that the step has."""
        moment, key, runs = (self.seed, step), batch.draw, self.terms.runs
        candidates = batch.mask & ~batch.special
        boxes, level = patch_boxes(batch.saliency)
        weights = batch.views.drawn.get("guide") if batch.views else None
        aligned = None
        if weights is not None:
            side = math.isqrt(weights.shape[-1])
            aligned = aligned_patches(weights, candidates, boxes, level, (side, side))
        noise = chance.uniform(*moment, key, Stream.ALIGNED, 2 * batch.ids.shape[1])
        fill = chance.uniform(*moment, key, Stream.FILL, boxes.shape[1])
        noise = noise.unflatten(1, (-1, 2))
        tokens, patches = choose_aligned(aligned, candidates, noise, fill, self.rate)
        for n, task in ((3, "camouflage"), (4, "grey"), (5, "blank")):
            patches[:, SLICES[n - 1]] &= runs(task, step)
        return tokens & runs("amlm", step), patches

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """All terms; those of tokens and patches of rows that show their own image."""
        step, drawn, views = batch.views.step, batch.views.drawn, features.views
        ours, count = self._counted(drawn), share_of(**self._counted(whole.views.drawn))
        clean = torch.cat([views[f"level{n}"].patch_states for n in range(1, LEVELS + 1)], dim=1)
        blank = drawn["patches"].clone()
        blank[:, : SLICES[4].start] = False
        tokens = self.embed(torch.where(blank[..., None], 0, clean), drawn["boxes"])
        text, real = views["masked"], torch.ones_like(blank)
        words, states = self.fuse(text.token_states, text.mask, tokens, real)
        at = {name: states[:, SLICES[n]] for n, name in enumerate(NAMES[2:])}
        losses: dict[str, Tensor] = {}

        def told(name: str, logits: Tensor, right: Tensor) -> None:
            asked = right.masked_fill(~ours[name], IGNORED)
            loss = F.cross_entropy(full_precision(logits), asked, reduction="sum")
            losses[f"{name}_loss"] = loss / count[name]
            losses[f"{name}_accuracy"] = mean_of(logits.argmax(dim=1) == right, ours[name])

        if self.terms.runs("amlm", step):
            hidden = batch.views.places("amlm")
            logits = self.word_head(words.flatten(0, 1)[hidden], features.word_table)
            right = batch.ids.flatten()[hidden]
            losses["amlm_loss"] = masked_lm_loss(logits, right, count["amlm"])
            losses["amlm_accuracy"] = mean_of(logits.argmax(dim=1) == right)
        if self.terms.runs("itm", step):
            logits, match = self.match_head(words[:, 0]), drawn["match"]
            losses["itm_loss"] = matching_loss(logits, match, divisor=count["itm"])
            losses["itm_accuracy"] = mean_of(logits.argmax(dim=1) == match)
        for name, label in (("rotation", "turns"), ("jigsaw", "order"), ("camouflage", "place")):
            if self.terms.runs(name, step):
                told(name, getattr(self, name)(at[name].flatten(1)), drawn[label])
        for name, of, level in (("grey", "clean", 4), ("blank", "level5", 5)):
            if self.terms.runs(name, step):
                taught = drawn.get(f"taught_{of}", drawn.get(f"colours_{name}"))
                wanted = (views[of].patch_states if taught is None else taught).detach()
                some = (drawn["patches"][:, SLICES[level - 1]], BUDGET[ALIGNED.index(level)])
                if name == "blank":  # of grey ones a row has the hidden alone, in their order
                    wanted = mosaic.picked(wanted, *some)
                wanted = standardised(wanted) if self.standardise else full_precision(wanted)
                predicted = full_precision(getattr(self, name)(mosaic.picked(at[name], *some)))
                told_of = ours["rotation"][:, None, None]  # of the others nothing is asked
                predicted = torch.where(told_of, predicted, wanted)
                losses[f"{name}_loss"] = divergence(predicted, wanted, count[name])
        return anchored(self.terms.weighted(losses), features, self.paired_features, self)

    def _counted(self, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """term -> what of a batch it is about, bool: tokens, patches or rows."""
        match = drawn["match"]
        rows = match | self.unmatched
        level = {n: drawn["patches"][:, SLICES[n - 1]] & rows[:, None] for n in (4, 5)}
        return {
            "amlm": drawn["amlm"],
            "itm": torch.ones_like(match),
            "rotation": rows,
            "jigsaw": rows,
            "camouflage": rows & (drawn["place"] >= 0),
            "grey": level[4],
            "blank": level[5],
        }

    # ------------------------------------------------------------ how it is read

    def read_images(self, encoder: nn.Module, image: Tensor) -> ImageFeatures:
        """The vectors of the 55 patches of whole pictures, as patch_states [B,55,F]."""
        boxes = _whole(image)
        cut = [self.cut(image, boxes, level) for level in range(1, LEVELS + 1)]
        states = torch.cat([encoder.pooled_states(one) for one in cut], dim=1)
        return ImageFeatures(None, None, states)

    def image_tokens(self, image: ImageFeatures) -> tuple[Tensor, Tensor]:
        """The 55 patches."""
        tokens = self.embed(image.patch_states, _whole(image.patch_states))
        return tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool)


def _whole(like: Tensor) -> Tensor:
    """[B,55,4]: the patches of whole pictures."""
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=like.device)
    return patch_boxes(box.expand(len(like), -1))[0]
