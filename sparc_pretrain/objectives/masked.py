"""What objectives share that hide words and train several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.terms import Terms

OF_WORDS = ("mlm", "mtl", "amlm")  # tasks that hide words


class MaskedObjective(Objective):
    """Its draws are a function of (seed, step, sample), see `chance`.

    Args:
        mask_id, word_ids (first, end), seed: of the Pretrainer.
        tasks: None = the sum of all terms in every step; else shares of the names in `tasks_of`,
            one of which is trained in a step, on all processes.
        weights: of the terms, 1 where not given; a term of weight 0 is not computed.
        block: pairs that the fusion encoder runs at a time; more are computed again in the backward
            pass.

    Attributes:
        tasks_of: task -> its terms.
        choices: argument -> the values that it may have.

    Raises ValueError for names that are not known, and a tokenizer without a mask token.
    """

    tasks_of: ClassVar[Mapping[str, Sequence[str]]]
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def __init__(
        self,
        mask_id: int | None,
        word_ids: Sequence[int],
        seed: int = 0,
        tasks: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
        block: int = 256,
    ) -> None:
        super().__init__()
        if mask_id is None:
            raise ValueError(f"objective {self.name} needs a tokenizer with a mask token")
        self.terms = Terms(self.name, self.tasks_of, seed, weights, tasks)
        self.seed, self.mask_id, self.word_ids, self.block = seed, mask_id, tuple(word_ids), block

    @property
    def name(self) -> str:
        """For messages."""
        return type(self).__name__

    @property
    def compiled(self) -> tuple[nn.Module, ...]:
        """The fusion encoder."""
        return (self.fusion,)

    @property
    def words_trained(self) -> bool:
        """Whether hidden words are guessed."""
        return any(self.terms.trains(task) for task in OF_WORDS)

    def check(self, **given: object) -> None:
        """Raises ValueError where an argument is none of its `choices`."""
        for key, values in self.choices.items():
            if given[key] not in values:
                raise ValueError(f"{self.name}: {key} {given[key]!r}: use one of {tuple(values)}")
