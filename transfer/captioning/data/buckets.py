"""Batches of captions of like lengths, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from sparc_pretrain.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class LengthBatchSampler:
    """A batch sampler: of `window` batches' worth of the sampler's order, those of like lengths go
    together; then the batches of the window are shuffled.

    Every index comes as often as in the sampler's order, and its order depends on `seed` alone.

    Args: sampler: indices, with a `dataset` that has `lengths`. batch_size. window: batches
        that are sorted together. drop_last: of a sampler that ends. seed: of the shuffling.

    Raises ValueError for a data set without `lengths`.
    """

    def __init__(
        self,
        sampler: Iterable[int],
        batch_size: int,
        window: int = 32,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        dataset = getattr(sampler, "dataset", None)
        if not hasattr(dataset, "lengths"):
            raise ValueError(f"{type(dataset).__name__} has no lengths: leave batch_sampler out")
        self.lengths = np.asarray(dataset.lengths)
        self.sampler, self.batch_size = sampler, batch_size
        self.window, self.drop_last, self.seed = window, drop_last, seed

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)
        for number in range(2**62):
            indices = list(islice(order, self.window * self.batch_size))
            if not indices:
                return
            indices.sort(key=lambda i: self.lengths[i])  # stable: the sampler's order within
            starts = range(0, len(indices), self.batch_size)
            batches = [indices[start : start + self.batch_size] for start in starts]
            generator = np.random.default_rng((self.seed, number))
            for place in generator.permutation(len(batches)):
                if len(batches[place]) == self.batch_size or not self.drop_last:
                    yield batches[place]

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)
