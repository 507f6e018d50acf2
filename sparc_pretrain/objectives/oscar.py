"""Oscar: tags of objects as anchors between words and regions (Li et al., arXiv 2004.06165; three
kinds: OSCAR+, arXiv 2101.00529).

The text is begin, caption, end, tags, end. Suffixes: B images, T tokens of a caption, Q of tags, N
of both, R regions, F width of a region's vector, H width of texts and fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain import chance
from sparc_pretrain.chance import Stream
from sparc_pretrain.distributed import gather_padded
from sparc_pretrain.objectives.base import Writer
from sparc_pretrain.objectives.concepts import mean_of
from sparc_pretrain.objectives.contrastive import full_precision, without_autocast
from sparc_pretrain.objectives.masking import hide_words, masked_lm_loss
from sparc_pretrain.objectives.regions import Seen, seen_of
from sparc_pretrain.objectives.single_stream import CELLS, PooledHead, SingleStream, draw_partners
from sparc_pretrain.objectives.tags import at_the_end, cut, fitting, join, tagged
from sparc_pretrain.objectives.terms import anchored, share_of
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.towers.fusion import TAGS
from sparc_pretrain.towers.regions import geometry
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures, Views, Words

__all__ = ["Oscar", "cut", "fitting", "join", "kinds", "pollution_loss", "replace_tags"]
OWN, WRONG_TAGS, WRONG_CAPTION = range(3)
# number of kinds -> shares of wrong tags and wrong captions
SHARES = {2: (0.5, 0.0), 3: (0.25, 0.25)}
GEOMETRY = 6  # x0 y0 x1 y1 w h


def kinds(noise: Tensor, wrong_tags: float = 0.5, wrong_caption: float = 0.0) -> Tensor:
    """What is shown of each row [B] long, by noise [B]: 1 = wrong tags, 2 = a wrong caption, 0 =
    its own.
    """
    rest = torch.where(noise < wrong_tags + wrong_caption, WRONG_CAPTION, OWN)
    return torch.where(noise < wrong_tags, WRONG_TAGS, rest)


def replace_tags(
    tags: Tensor,
    tag_mask: Tensor,
    kind: Tensor,
    donor: Tensor,
    others: Tensor,
    other_mask: Tensor,
    polluted: int = WRONG_TAGS,
) -> tuple[Tensor, Tensor, Tensor]:
    """(tags, mask, kind): rows of kind 1 have the tags of their donor, right-padded; a polluted row
    without a donor (-1) becomes one of its own, kind 0.

    Args: tags, tag_mask: [B,Q]. kind, donor: [B] long. others, other_mask: [N,Q']. polluted: the
        kind whose rows are replaced.
    """
    kind = torch.where((kind == polluted) & (donor < 0), OWN, kind)
    width, row = max(tags.shape[1], others.shape[1]), (kind == polluted)[:, None]
    tags, tag_mask, others, other_mask = (
        F.pad(x, (0, width - x.shape[1])) for x in (tags, tag_mask, others, other_mask)
    )
    there = donor.clamp(min=0)
    tag_mask = torch.where(row, other_mask[there], tag_mask)
    return torch.where(row, others[there], tags), tag_mask, kind


@without_autocast
def pollution_loss(logits: Tensor, kind: Tensor, divisor: Tensor | float | None = None) -> Tensor:
    """L_C (eq. 4): cross-entropy of logits [B,2 or 3] with what is shown [B], over `divisor` (None:
    B, at least 1). Contrastive in its paper's words; it is no InfoNCE.
    """
    loss = F.cross_entropy(full_precision(logits), kind, reduction="sum")
    return loss / (max(1, len(kind)) if divisor is None else divisor)


class TaggedRegions(nn.Module):
    """LN(W [f, x0 y0 x1 y1 w h]) -> tokens [B,R,H]."""

    def __init__(self, region_width: int, width: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(region_width + GEOMETRY, width), nn.LayerNorm(width)

    def forward(self, seen: Seen) -> Tensor:
        """Regions -> [B,R,H]."""
        place = geometry(seen.box)[..., :GEOMETRY].to(seen.state.dtype)
        whole = torch.cat([seen.state, place], dim=-1).to(self.project.weight.dtype)
        return self.norm(self.project(whole))


@OBJECTIVES.register_module()
class Oscar(SingleStream):
    """MTL, masked tokens of captions and tags, and pollution: are caption and tags this image's.

    Words are the states of a text tower of 0 layers; regions are never masked. What a step draws is
    a function of (seed, step, sample), see `chance`; dropout of the fusion encoder is not.

    Args:
        kinds: 2 = half of the rows have wrong tags (released); 3 = a quarter wrong tags, a quarter
            a wrong caption (OSCAR+).
        rate: share of masked tokens, at least one. mask_polluted: 'all' (released), or 'words':
            wrong tags are not masked.
        regions: 'online' = RoIAlign over our own tower's states; 'files' = vectors that come with
            the sample, of `region_width` numbers, and no tower is trained.
        length: most tokens of captions and tags, the end tokens among them.
        text_width, vision_width, max_tokens: of the Pretrainer. shared: see
            `SingleStream`; tasks and terms are `mtl` and `pollution`.

    Raises ValueError for other names, and a tokenizer without a mask token.
    """

    tasks_of: ClassVar = dict(mtl=("mtl",), pollution=("pollution",))
    choices: ClassVar = dict(
        mask_polluted=("all", "words"), kinds=tuple(SHARES), regions=("online", "files")
    )
    needs = ("tags", "regions", "mask_id")
    paired_features = ("patch_states", "token_states", "word_table")
    reading = f"{CELLS}, whose class names are the tags"

    def __init__(
        self,
        text_width: int,
        vision_width: int,
        max_tokens: int = 512,
        kinds: int = 2,
        rate: float = 0.15,
        mask_polluted: str = "all",
        regions: str = "online",
        region_width: int = 2048,
        length: int = 35,
        **shared: Any,
    ) -> None:
        super().__init__(text_width, **shared)
        self.check(mask_polluted=mask_polluted, kinds=kinds, regions=regions)
        self.kinds, self.rate, self.mask_polluted = kinds, rate, mask_polluted
        self.length, self.online = min(length, max_tokens), regions == "online"
        if not self.online:
            self.sees_images = self.vision_trained = False
            self.paired_features = ("token_states", "word_table")
        self.embed = TaggedRegions(vision_width if self.online else region_width, text_width)
        self.own_head = PooledHead(text_width, kinds)

    @classmethod
    def needs_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Of files also vectors."""
        files = config.get("regions", "online") == "files"
        return (*cls.needs, *(("region_state",) if files else ()))

    def views(self, batch: Batch, step: int) -> Views:
        """Captions and tags in one text, some of them another image's, some tokens hidden."""
        moment, key = (self.seed, step), batch.draw
        kind = kinds(chance.uniform(*moment, key, Stream.POLLUTION, 1)[:, 0], *SHARES[self.kinds])
        kind = kind * self.terms.runs("pollution", step)
        donor = draw_partners(batch.image_id, key, moment, Stream.TAG_DONOR, batch.tags.text_id)
        own = (batch.tags.ids, batch.tags.mask)
        tags, tag_mask, kind = replace_tags(*own, kind, donor, *map(gather_padded, own))
        own = (batch.ids, batch.mask)
        if self.kinds == 3:
            said = _text_keys(*own)
            donor = draw_partners(batch.image_id, key, moment, Stream.CAPTION_DONOR, said)
            others = map(gather_padded, own)
            *own, kind = replace_tags(*own, kind, donor, *others, polluted=WRONG_CAPTION)
        lengths = fitting(own[1].sum(dim=1), tag_mask.sum(dim=1), self.length)
        ids, mask = cut(*own, lengths[0])
        tags, tag_mask = cut(tags, tag_mask, lengths[1])
        words = mask & ~_ends(mask)
        words[:, 0] = False  # the begin token
        named = tag_mask & ~_ends(tag_mask)
        free = named & (kind != WRONG_TAGS)[:, None] if self.mask_polluted == "words" else named
        joined, real, segment = join(ids, mask, tags, tag_mask, self.length)

        def packed(words: Tensor, tags: Tensor) -> Tensor:
            return join(words.long(), mask, tags.long(), tag_mask, self.length)[0].bool()

        candidates = packed(words, free) & self.terms.runs("mtl", step)
        hidden, chosen = hide_words(
            *(joined, joined, candidates, key, moment, self.mask_id, self.word_ids),
            kind="independent",
            rate=self.rate,
        )
        text = Words(hidden, real, real & ~packed(words, named))
        drawn = dict(right=joined, segment=segment, kind=kind)
        return Views(texts={"joined": text}, drawn=drawn, step=step).choose(chosen=chosen)

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """MTL and pollution, in one pass."""
        step, drawn, every = batch.views.step, batch.views.drawn, whole.views.drawn
        text = features.views["joined"]
        seen = seen_of(features.patch_states if self.online else None, batch.regions)
        given = (text.token_states, text.mask, self.embed(seen), seen.valid, drawn["segment"])
        states = self.fuse(*given)[0]
        count = share_of(mtl=every["chosen"], pollution=torch.ones_like(every["kind"]))
        losses: dict[str, Tensor] = {}
        if self.terms.runs("mtl", step):
            at = batch.views.places("chosen")
            logits = self.word_head(states.flatten(0, 1)[at], features.word_table)
            right = drawn["right"].flatten()[at]
            losses["mtl_loss"] = masked_lm_loss(logits, right, count["mtl"])
            hit, tags = logits.argmax(dim=1) == right, drawn["segment"].flatten()[at] == 1
            losses["mtl_accuracy"] = mean_of(hit)
            losses["mtl_tag_accuracy"] = mean_of(hit, tags)
        if self.terms.runs("pollution", step):
            logits, kind = self.own_head(states[:, 0]), drawn["kind"]
            losses["pollution_loss"] = pollution_loss(logits, kind, count["pollution"])
            losses["pollution_accuracy"] = mean_of(logits.argmax(dim=1) == kind)
        return anchored(self.terms.weighted(losses), features, self.paired_features, self)

    # ------------------------------------------------------------ how it is read

    def _seen(self, image: ImageFeatures) -> Seen:
        if not self.online:
            raise ValueError("an Oscar of region vectors from files cannot read pictures")
        return seen_of(image.patch_states, image.regions)

    def image_tokens(self, image: ImageFeatures) -> tuple[Tensor, Tensor]:
        """Regions."""
        seen = self._seen(image)
        return self.embed(seen), seen.valid

    def begin(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """See `SingleStream`; the names of given boxes are tags behind the text."""
        said, segment = (text.token_states, text.mask), None
        if image.regions is not None and image.regions.tags is not None:
            *said, segment = tagged(*said, image.regions)
        return self.fuse(*said, *self.image_tokens(image), segment)[0][:, 0]

    def writer(self, image: ImageFeatures) -> Writer:
        """See `SingleStream`; tags are seen by words, see none, and stand in the last places."""
        if image.regions is None or image.regions.tags is None:
            return super().writer(image)
        (tokens, real), (tags, named) = self.image_tokens(image), at_the_end(image.regions)

        def fused(states: Tensor, mask: Tensor, owner: Tensor) -> Tensor:
            text, said = torch.cat([states, tags[owner]], 1), torch.cat([mask, named[owner]], 1)
            segment = torch.zeros_like(said, dtype=torch.long)
            segment[:, states.shape[1] :] = TAGS
            given = (text, said, tokens[owner], real[owner])
            return self.fusion(*given, segment=segment, causal=True)[0][:, : states.shape[1]]

        return fused

    def match(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How well row i of the images and row i of the texts match: log-odds [n] of 'own'."""
        logits = self.own_head(self.begin(image, text))
        return logits[:, OWN] - logits[:, OWN + 1 :].logsumexp(dim=1)

    def look(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Attention of the last layer [n,T,P], a region's part spread over its patches."""
        seen = self._seen(image)
        given = (text.token_states, text.mask, self.embed(seen), seen.valid)
        return seen.spread(self.fusion.joint_weights(*given), image.patch_states)


def _ends(mask: Tensor) -> Tensor:
    """[B,T] bool: the last real token of right-padded texts."""
    return mask & ~F.pad(mask, (0, 1))[:, 1:]


def _text_keys(ids: Tensor, mask: Tensor) -> Tensor:
    """A number [B] that equal texts [B,T] share, however they are padded."""
    found = torch.zeros_like(ids[:, 0])
    for token, real in zip(ids.T, mask.T, strict=True):
        found = torch.where(real, chance.mix(found ^ token), found)
    return found
