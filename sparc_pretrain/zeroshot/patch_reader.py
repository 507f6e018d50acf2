"""How dense tasks read patches: the head that was trained, and what the objective does on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.zeroshot.encode import PooledCosine

FORMULAS = {"global": "g_v(h_v({}))", "local": "g_v({})"}


@dataclass(frozen=True)
class PatchReader:
    """Patch states [...,Dv] of a model -> [...,D], to be compared with texts by cosine.

    head: 'global' = g_v after h_v (SPARC, App. D.7), 'local' = g_v. embed: [...,D] -> [...,D],
    what follows g_v, the hook `dense_patches` of an objective (PACL's embedder); None = nothing.
    embed_name: of it in protocols.

    Raises:
        ValueError: an unknown head.
    """

    head: str = "global"
    embed: Callable[[Tensor], Tensor] | None = None
    embed_name: str = "embed"

    def __post_init__(self) -> None:
        if self.head not in FORMULAS:
            raise ValueError(f"head {self.head!r}: use 'local' or 'global'")

    @classmethod
    def of(cls, objective: Objective | None, head: str | None = None) -> PatchReader:
        """The reader of a model trained by `objective`; `head` None: the one it trained, or where
        it trained both the one it names, `dense_head`.

        An objective whose texts meet patches through more than g_v has `dense_patches`,
        which follows g_v; nothing follows h_v, which such an objective does not train.

        Raises ValueError for an objective that trains no space that images and texts share.
        """
        objective = objective or PooledCosine()
        if not objective.shares_space:
            raise ValueError(
                f"{type(objective).__name__} reads images and texts in one stream and trains no "
                "space that both share: single patches cannot be compared with texts"
            )
        chosen = head or objective.dense_head
        embed = objective.dense_patches if chosen == "local" else None
        return cls(chosen, embed, f"{type(objective).__name__}.dense_patches")

    def __call__(self, model: DualEncoder, states: Tensor) -> Tensor:
        """states [...,Dv], of the vision tower -> [...,D], un-normalised."""
        if self.head == "global":
            states = model.adapters.h_v(states)
        embedded = model.adapters.g_v(states)
        return embedded if self.embed is None else self.embed(embedded)

    def patches(self, model: DualEncoder, image: Tensor) -> Tensor:
        """Patches [B,P,D] of images [B,3,H,W] (uint8, or float, normalised)."""
        return self(model, model.vision(model.normalize(image)))

    def formula(self, what: str = "patch") -> str:
        """For a protocol, e.g. 'g_v(h_v(patch))'."""
        inner = FORMULAS[self.head].format(what)
        return inner if self.embed is None else f"{self.embed_name}({inner})"


def said(objective: Objective) -> str:
    """How dense tasks read the patches of a model, for a record; of one stream they do not."""
    return PatchReader.of(objective).formula() if objective.shares_space else "not at all"


PAPER = PatchReader()  # SPARC, App. D.7
