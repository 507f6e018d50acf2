"""The order of training samples: a pure function of (seed, position), for any number of processes.

Position p of the global stream belongs to global batch `p // global_batch`. Rank r of W takes the
positions r, r + W, ..., so the same global batches come out for every W at one global batch, and a
run can be resumed at any position in constant time, with another W too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from math import ceil, lcm
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from sparc_pretrain.distributed import rank, world_size
from sparc_pretrain.registry import DATA_SAMPLERS

BATCHES_PER_BLOCK, FEWEST, MOST = 16, 32, 256  # the last: shards that a process holds open
CHUNK = 4096  # positions worked out at a time
FINEST_WEIGHT = 1000  # weights are rounded to fractions with at most this denominator
LONGEST_CYCLE = 100_000  # draws; where fractions have no shorter one, weights are rounded to it


class SizedSources(Protocol):
    """What the sampler needs to know of a dataset."""

    shard_sizes: list[np.ndarray]  # per source: [S] samples in each of its shards
    weights: list[float]  # per source


class SourceOrder:
    """One source's endless stream: every sample once per epoch, shuffled in blocks of shards.

    The shards are shuffled, each `shards_per_block` neighbours form a block, and samples are
    shuffled within it: reads stay local, and no permutation is ever larger than a block.
    """

    def __init__(self, sizes: np.ndarray, seed: tuple[int, ...], shards_per_block: int) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.total = int(self.sizes.sum())
        self.seed = seed
        self.shards_per_block = shards_per_block
        self._epoch: tuple[int, list[np.ndarray], np.ndarray] | None = None
        self._block: tuple[tuple[int, int], np.ndarray] | None = None

    def __call__(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples [n] of the stream, n ascending -> (index within the source, epoch), both
        [len(n)].
        """
        epoch, offset = np.divmod(n, self.total)
        index = np.empty_like(n)
        for e in np.unique(epoch).tolist():
            now = np.flatnonzero(epoch == e)
            ends = self._shards(e)[1]
            block = np.searchsorted(ends, offset[now], side="right")
            for b in np.unique(block).tolist():
                here = now[block == b]
                first = ends[b - 1] if b else 0
                index[here] = self._samples(e, b)[offset[here] - first]
        return index, epoch

    def _shards(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """(shards of each block, end of each block) in this epoch."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = _generator(*self.seed, epoch).permutation(len(self.sizes))
            blocks = np.split(
                order, range(self.shards_per_block, len(order), self.shards_per_block)
            )
            ends = np.cumsum([self.sizes[block].sum() for block in blocks])
            self._epoch = (epoch, blocks, ends)
        return self._epoch[1], self._epoch[2]

    def _samples(self, epoch: int, block: int) -> np.ndarray:
        if self._block is None or self._block[0] != (epoch, block):
            shards = self._shards(epoch)[0][block]
            parts = [np.arange(self.starts[s], self.starts[s] + self.sizes[s]) for s in shards]
            samples = _generator(*self.seed, epoch, block + 1).permutation(np.concatenate(parts))
            self._block = ((epoch, block), samples)
        return self._block[1]


class Schedule:
    """Which source each draw comes from: a shuffled cycle that holds each source by its weight, and
    begins at another of its places every time, or a rank that takes every second draw of a cycle of
    two would always get the same source.

    A draw is a global batch or a sample. `counts_before` [L+1,S] makes the number of earlier draws
    from a source a table look-up. Raises ValueError for weights that are not positive.
    """

    def __init__(self, weights: list[float], seed: int) -> None:
        if not weights or not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(f"the weights of the sources must be positive numbers, not {weights}")
        total = sum(weights)
        shares = [Fraction(weight / total).limit_denominator(FINEST_WEIGHT) for weight in weights]
        if not all(shares):
            raise ValueError(f"a weight below 1/{FINEST_WEIGHT} of the sum would never be drawn")
        whole = lcm(*(share.denominator for share in shares))
        per_cycle = [int(share * whole) for share in shares]
        if whole > LONGEST_CYCLE:
            exact = np.asarray(weights, dtype=np.float64) / total * LONGEST_CYCLE
            rounded = np.floor(exact).astype(int)
            missing = LONGEST_CYCLE - int(rounded.sum())
            rounded[np.argsort(rounded - exact, kind="stable")[:missing]] += 1
            per_cycle = rounded.tolist()
        cycle = np.repeat(np.arange(len(weights)), per_cycle)
        self.cycle = _generator(seed, 0).permutation(cycle)
        hits = self.cycle[:, None] == np.arange(len(weights))
        self.counts_before = np.vstack([np.zeros_like(hits[:1], int), np.cumsum(hits, axis=0)])
        self.per_cycle = np.asarray(per_cycle, dtype=np.int64)
        self.seed = seed

    def __call__(self, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws [n] -> (source, number of earlier draws from this source), both [n]."""
        length = len(self.cycle)
        cycles, place = np.divmod(draw, length)
        begin = (_hash(cycles, self.seed) % length).astype(np.int64)
        place += begin
        source = self.cycle[place % length]
        earlier = self.counts_before[place % length, source] - self.counts_before[begin, source]
        # a place behind the end of the table: what stands before `begin` comes after the rest
        return source, (cycles + place // length) * self.per_cycle[source] + earlier


@DATA_SAMPLERS.register_module()
class PairSampler(Sampler):
    """Endless `(index, visit)` pairs for `PairDataset`; `visit` counts the epochs of the sample's
    source.

    shards_per_block: neighbours in the shuffled order of a source's shards whose samples are
    shuffled together; default: as many as hold `BATCHES_PER_BLOCK` global batches, from `FEWEST`
    to `MOST` shards. mode='alternate': each global batch of `global_batch` samples comes from one
    source (as in the paper); mode='mixed': every sample is drawn from a source of its own. Weights
    count draws. ahead: a third number tells the index that comes so many samples later, for a
    dataset that reads ahead.

    Raises ValueError for an unknown mode, without `global_batch` when several sources alternate,
    and for fewer samples than a global batch takes of them, which would then hold the same pair
    twice.
    """

    def __init__(
        self,
        dataset: SizedSources,
        seed: int | None = None,
        global_batch: int | None = None,
        mode: str = "alternate",
        shards_per_block: int | None = None,
        ahead: int = 0,
    ) -> None:
        if mode not in ("alternate", "mixed"):
            raise ValueError(f"mode must be 'alternate' or 'mixed', not {mode!r}")
        several = len(dataset.shard_sizes) > 1
        if mode == "alternate" and several and not global_batch:
            raise ValueError(
                "several sources alternate by global batches: give the sampler "
                "global_batch = batch_size * number of processes, or mode='mixed'"
            )
        if shards_per_block is not None and shards_per_block < 1:
            raise ValueError(f"shards_per_block must be at least 1, not {shards_per_block}")
        seed = seed or 0
        blocks = [shards_per_block or _block(s, global_batch or 1) for s in dataset.shard_sizes]
        self.shards_per_block = blocks[0] if len(set(blocks)) == 1 else blocks
        # with one source the size of a draw changes nothing
        self.draw_size = int(global_batch) if mode == "alternate" and several else 1
        self.schedule = Schedule(list(dataset.weights), seed)
        self.orders = [
            SourceOrder(sizes, (seed, 1 + s), block)
            for s, (sizes, block) in enumerate(zip(dataset.shard_sizes, blocks, strict=True))
        ]
        totals = np.asarray([order.total for order in self.orders], dtype=np.int64)
        self.first_index = np.cumsum(totals) - totals
        self.total = int(totals.sum())
        smallest = int(totals.min()) if mode == "alternate" else self.total
        if global_batch and smallest < global_batch:
            where = f"source {int(totals.argmin())}" if self.draw_size > 1 else "the data"
            raise ValueError(
                f"{where} has {smallest} samples, fewer than one global batch of {global_batch}: "
                "lower data.global_batch or give more shards"
            )
        if global_batch and mode == "mixed":
            shares = self.schedule.per_cycle / len(self.schedule.cycle)
            for s, drawn in enumerate(np.ceil(shares * global_batch).astype(int).tolist()):
                if totals[s] < drawn:
                    raise ValueError(
                        f"source {s} has {totals[s]} samples, fewer than the {drawn} of a global "
                        f"batch of {global_batch} that its weight asks for: lower its weight or "
                        "data.global_batch, or give more shards"
                    )
        self.rank, self.world_size = rank(), world_size()
        self.start, self.ahead = 0, ahead

    def order(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global positions [n] (ascending) -> (index over all sources, visit), both [n]."""
        draw, within = np.divmod(np.asarray(positions, dtype=np.int64), self.draw_size)
        source, earlier = self.schedule(draw)
        n = earlier * self.draw_size + within
        index, visit = np.empty_like(n), np.empty_like(n)
        for s, order in enumerate(self.orders):
            here = source == s
            if here.any():
                index[here], visit[here] = order(n[here])
        return index + self.first_index[source], visit

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        pairs = self._pairs()
        coming = deque(islice(pairs, self.ahead))
        for pair in pairs:
            if self.ahead:
                coming.append(pair)
                pair = (*coming.popleft(), pair[0])
            yield pair

    def _pairs(self) -> Iterator[tuple[int, int]]:
        step = CHUNK * self.world_size
        at = self.start * self.world_size + self.rank
        while True:
            index, visit = self.order(np.arange(at, at + step, self.world_size))
            yield from zip(index.tolist(), visit.tolist(), strict=True)
            at += step

    def skip(self, num_samples: int) -> None:
        """Start the next iteration at this rank's sample `num_samples`, counted from the very
        beginning.

        This is what mmengine calls on resume. Raises ValueError for a negative number.
        """
        if num_samples < 0:
            raise ValueError(f"cannot skip {num_samples} samples")
        self.start = int(num_samples)

    def __len__(self) -> int:
        """This rank's share of all samples of all sources; the stream itself never ends."""
        return ceil(self.total / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the stream is endless and its position says it all."""


def _block(sizes: np.ndarray, global_batch: int) -> int:
    """How many shards of these sizes [S] hold `BATCHES_PER_BLOCK` global batches, within limits."""
    mean = max(1.0, float(np.mean(sizes)))
    return int(np.clip(ceil(BATCHES_PER_BLOCK * global_batch / mean), FEWEST, MOST))


def _hash(x: np.ndarray, seed: int) -> np.ndarray:
    """splitmix64 (Steele et al., 2014) of numbers [n] under a seed: uint64, evenly spread."""
    x = (x.astype(np.uint64) + np.uint64(seed % 2**32 * 2**32 + 1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(numbers)
