"""What an objective is: the one class that a new objective derives from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures, Views

Writer = Callable[[Tensor, Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """From the features of a batch to named losses, and how the trained model is read.

    An objective overrides what it has of: `coupled`, the terms over all pairs of the global batch;
    `paired`, the terms that need one pair at a time; `scores`. Entries of the two dicts that end in
    `_loss` are summed, the others only logged; no name may stand in both. Formulas are plain
    functions under `contrastive.without_autocast`; embeddings come un-normalised, this rank's rows
    only. Temperatures, heads and fusion encoders belong to the objective and travel in the run
    folder. Arguments of the constructor named `width`, `text_width`, `vision_width`, `vocab_size`,
    `mask_id`, `word_ids` (first, end) and `seed` are filled in by the Pretrainer.

    Attributes:
        coupled_features, paired_features: fields of Features that `coupled` and `paired` take
            gradients of. `--accumulate` keeps the first ones of all micro-batches; adapters that
            make none of either are frozen.
        score_features: the fields that `scores` uses.
        word_features: the field of TextFeatures [B,T,D] by which single words are read densely:
            'tokens' in their context, or 'words' free of it.
        together: rows of a batch that `paired` must see side by side, in groups of so many from the
            first on; others it may get in any order.
        needs, wants: optional fields of Batch without which it cannot be trained, and those it
            uses where they are there.
        dense_patches: None, or patches [...,D] -> [...,D], what follows g_v before a patch is
            compared with a text (PACL's embedder).
        match, ground, look, begin: None, or (image, text) features of n aligned pairs -> log-odds
            [n] that they belong together, -> boxes [n,4] in 0..1 of what the text means, -> where
            its tokens look, weights [n,T,P], -> the fused state [n,H] of the text's begin token.
        writer: None, or features of images -> a function of texts that are read from left to right:
            token states [n,T,Dt], mask [n,T], the image of each [n] long -> fused states [n,T,H];
            no token of the image sees a word. `word_logits`: those states [M,H] and the text
            tower's embeddings [V,Dt] -> logits [M,V] of its head of hidden words.
        words_trained: whether that head is.
        sees_images: whether the vision tower is run on the batch's images; else on those of the
            views alone, or not at all.
        compiled: its encoders, whose lengths change from step to step, for `--compile`.
        reading: of one that compares no vectors, how it sees a picture at reading time.
        vision_trained: whether there is a vision tower to transfer.
    """

    coupled_features: tuple[str, ...] = ()
    paired_features: tuple[str, ...] = ()
    score_features: tuple[str, ...] = ("image", "text")
    word_features: str = "tokens"
    together: int = 1
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    dense_patches: Callable[[Tensor], Tensor] | None = None
    match: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None
    ground: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None
    look: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None
    begin: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None
    writer: Callable[[ImageFeatures], Writer] | None = None
    word_logits: Callable[[Tensor, Tensor], Tensor] | None = None
    words_trained: bool = False
    sees_images: bool = True
    vision_trained: bool = True
    reading: str = ""
    compiled: tuple[nn.Module, ...] = ()

    @classmethod
    def needs_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """`needs` of the objective that this config describes."""
        return cls.needs

    def __setattr__(self, name: str, value: Any) -> None:
        """A module may not take a name of the contract: Python would go on finding the class's."""
        if isinstance(value, nn.Module) and hasattr(type(self), name):
            raise AttributeError(
                f"{type(self).__name__}.{name} is {getattr(type(self), name)!r} by the contract of "
                "objectives: give the module another name"
            )
        super().__setattr__(name, value)

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """All terms of this rank's `batch`: their mean over ranks is the global batch's."""
        return {**self.coupled(features, batch), **self.paired(features, batch, batch)}

    def views(self, batch: Batch, step: int) -> Views | None:
        """What is to be encoded besides the clean batch, and what was drawn for it: called on the
        rank's whole batch of step `step` (from 0), without gradient; None = nothing.
        """
        return None

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs; of `features` only `coupled_features`, mask and special."""
        return {}

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """The terms of one pair at a time, divided by what belongs to the rank's `whole` batch, of
        which `batch` may be a part: so the parts add up.
        """
        return {}

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How zero-shot tasks read the model, [I,T]: the cosine of the global embeddings."""
        return unit(image.image) @ unit(text.text).T

    def read_images(self, encoder: nn.Module, image: Tensor) -> ImageFeatures:
        """What `scores`, `match`, `ground` and `look` take of pictures [B,3,H,W], uint8 or
        normalised; encoder: the DualEncoder.
        """
        return encoder.image_features(image)

    @property
    def shares_space(self) -> bool:
        """Whether images and texts have vectors to compare: not those of one stream alone."""
        shared = {"image", "patches", "concept", "text", "tokens", "words", "concept_text"}
        return bool(shared & {*self.coupled_features, *self.paired_features})

    @property
    def trained_head(self) -> str:
        """'global' = g_v after h_v (SPARC, App. D.7), where the objective trains the image
        embedding and with it h_v; else 'local' = g_v: FILIP and PACL leave h_v as initialised.
        """
        trained = {*self.coupled_features, *self.paired_features}
        return "global" if trained & {"image", "concept"} else "local"

    @property
    def dense_head(self) -> str:
        """How dense tasks read patches: a `trained_head`."""
        return self.trained_head
