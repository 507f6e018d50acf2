"""Frozen models that look on while another is trained: what they see of a batch goes to its views.
They are no part of the trained model: neither its checkpoints nor its run folder hold them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.objectives.sparc import group_patches
from sparc_pretrain.towers.regions import box_cells
from sparc_pretrain.types import Batch, Views
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.alignment import grouping_of
from sparc_pretrain.zeroshot.patch_reader import PatchReader

BLOCK = 64  # rows at a time
READINGS = ("attention", "trained", "local", "grouping", "boxes")
CELLS = 16  # a side, of the grid of reading 'boxes'


class Teacher:
    """The vision tower that a training started from, as it was: what it makes of clean pictures are
    the targets of `target='frozen'`.
    """

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = DualEncoder(
            deepcopy(encoder.vision),
            None,
            encoder.width,
            encoder.global_head,
            encoder.mean.flatten().tolist(),
            encoder.std.flatten().tolist(),
        )
        self.encoder.eval().requires_grad_(False)

    @torch.no_grad()
    def add(self, batch: Batch, views: Views) -> Views:
        """The views with the states of the images that they want taught: [B,P,Dv] of the batch's
        own, [B,n,Dv] pooled of pictures [B,n,3,s,s].
        """
        self.encoder.to(batch.image.device)
        found = {}
        for name in views.taught:
            images = batch.image if name == "image" else views.images[name]
            parts = [self._states(part) for part in images.split(BLOCK)]
            found[f"taught_{name}"] = torch.cat(parts)
        return replace(views, drawn={**views.drawn, **found})

    def _states(self, image: Tensor) -> Tensor:
        if image.ndim == 5:
            return self.encoder.pooled_states(image)
        return self.encoder.vision(self.encoder.normalize(image))


class Guide:
    """How strongly each token of a caption points at each patch of its image, by a frozen run.

    Args:
        run: its folder; None for reading 'boxes'. words: the tokenizer of the model in training.
        reading: 'attention' = the run's cross-attention (X-VLM); 'trained', 'local' = cosines of
            tokens and patches, none below 0, as `zeroshot grounding` names them; 'grouping' =
            SPARC's alignment weights (eqs. 2-4); 'boxes' = the sample's own boxes whose texts hold
            the token, an upper bound.

    Raises ValueError for another reading, another tokenizer, or a run that cannot be read so.
    """

    def __init__(self, run: str | Path | None, reading: str, words: Tokenizer | None) -> None:
        if reading not in READINGS:
            raise ValueError(f"model.guide_reading={reading!r}: use one of {READINGS}")
        self.reading = reading
        if reading == "boxes":
            return
        if run is None:
            raise ValueError(f"model.guide_reading={reading!r} needs model.guide=RUN")
        self.encoder, self.objective = encode.load(run)
        self.encoder.requires_grad_(False), self.objective.requires_grad_(False)
        theirs = self.encoder.tokenizer
        # a run that hid no words knows no mask token, and is not shown one
        known = [] if theirs is None else [theirs, deepcopy(theirs).with_mask()]
        if words is None or words.to_json() not in [one.to_json() for one in known]:
            raise ValueError(
                f"model.guide={run} has another tokenizer: its tokens are not those of this "
                f"training; set tokenizer=dict(load={str(run)!r}, mask=True)"
            )
        if reading == "attention" and self.objective.look is None:
            name = type(self.objective).__name__
            raise ValueError(f"model.guide={run}: {name} has no cross-attention to be guided by")
        if reading in ("trained", "local"):
            PatchReader.of(self.objective)  # raises where nothing is shared

    @torch.no_grad()
    def drawn(self, batch: Batch) -> dict[str, Tensor]:
        """`guide` [B,T,P], on a square grid, of a batch's captions and images."""
        if self.reading == "boxes":
            return {"guide": by_boxes(batch)}
        device = batch.image.device
        self.encoder.to(device), self.objective.to(device)
        rows = torch.arange(len(batch), device=device).split(BLOCK)
        return {"guide": torch.cat([self._weights(batch, which) for which in rows])}

    def _weights(self, batch: Batch, which: Tensor) -> Tensor:
        ids, mask, special = (x[which] for x in (batch.ids, batch.mask, batch.special))
        image = self.encoder.image_features(batch.image[which])
        text = self.encoder.text_features(ids, mask, special)
        if self.reading == "attention":
            return self.objective.look(image, text)
        head = None if self.reading == "trained" else "local"
        patches = PatchReader.of(self.objective, head)(self.encoder, image.patch_states)
        if self.reading == "grouping":
            return group_patches(text.tokens, patches, **grouping_of(self.encoder))[1]
        return (unit(text.tokens) @ unit(patches).transpose(1, 2)).clamp(min=0)


def by_boxes(batch: Batch) -> Tensor:
    """[B,T,P]: of each caption's token the share of the boxes, among those whose text holds it,
    that cover a cell of a grid.
    """
    concepts = batch.concepts
    words = concepts.mask & ~concepts.special & concepts.valid[..., None]
    words[:, 0] = False  # the caption itself
    same = (batch.ids[:, :, None, None] == concepts.ids[:, None]) & words[:, None]
    said = same.any(dim=-1) & (batch.mask & ~batch.special)[..., None]  # [B,T,K]
    cells = box_cells(torch.where(concepts.valid[..., None], concepts.box, 0), (CELLS, CELLS))
    weight = said.double() @ cells.double()
    return weight / said.sum(dim=-1, keepdim=True).clamp(min=1)
