"""What a study's evaluations share: a metric as its values per item, and the model measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.zeroshot import encode


@dataclass(frozen=True)
class Measure:
    """A metric: the mean of `items`; `groups` are the sizes of runs of items of one image; `blind`
    is what one gets without looking at images, by name of the way.
    """

    items: list[float]
    groups: list[int]
    blind: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        items: Tensor | Sequence[float],
        owners: Iterable[int] | None = None,
        blind: dict[str, float] | None = None,
    ) -> Measure:
        """Items in the order of their images `owners` (None: each item is an image of its own)."""
        values = [round(float(v), 4) for v in items]
        owners = list(range(len(values)) if owners is None else owners)
        blind = {name: round(float(value), 4) for name, value in (blind or {}).items()}
        return cls(values, list(Counter(owners).values()), blind)


Measures = dict[str, Measure]


@dataclass(frozen=True)
class Subject:
    """The model that is measured, and what tasks have already worked out of it."""

    model: DualEncoder
    objective: nn.Module
    known: dict[Any, dict[str, Tensor]] = field(default_factory=dict)

    def scores(self, data: encode.CaptionedImages) -> dict[str, Tensor]:
        """[I,T] by each of `encode.readers`: an objective that compares tokens takes minutes."""
        key = (tuple(data.files), tuple(data.captions), id(data.boxes))
        if key not in self.known:
            self.known[key] = encode.read_all(self.model, encode.readers(self.objective), data)
        return self.known[key]


Task = Callable[[Subject], Measures]
