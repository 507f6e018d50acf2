"""The order: a function of (seed, position), elastic, resumable, each sample once per epoch."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from sparc_pretrain.data.sampler import LONGEST_CYCLE, PairSampler, Schedule


class Sources:
    """Stands for a dataset: sizes of shards per source, weights."""

    def __init__(self, *sizes: list[int], weights: list[float] | None = None) -> None:
        self.shard_sizes = [np.asarray(one) for one in sizes]
        self.weights = weights or [1.0] * len(sizes)


ONE = Sources([5, 9, 0, 3, 11, 2, 8])
TWO = Sources([5, 9, 3], [4, 4, 12, 20], weights=[1, 3])


def sampler(sources: Sources = ONE, rank: int = 0, world: int = 1, **options) -> PairSampler:
    made = PairSampler(sources, **{"seed": 3, "shards_per_block": 2, **options})
    made.rank, made.world_size = rank, world
    return made


def take(made: PairSampler, n: int) -> list[tuple[int, int]]:
    return list(islice(made, n))


def test_every_sample_comes_exactly_once_per_epoch():
    stream = take(sampler(), 38 * 5)
    for epoch in range(5):
        part = stream[38 * epoch : 38 * (epoch + 1)]
        assert sorted(index for index, _ in part) == list(range(38))
        assert {visit for _, visit in part} == {epoch}


def test_epochs_and_seeds_differ_in_order():
    stream = [index for index, _ in take(sampler(), 76)]
    assert stream[:38] != stream[38:]
    assert stream != [index for index, _ in take(sampler(seed=4), 76)]
    assert stream[:38] != sorted(stream[:38])


def test_the_same_seed_gives_the_same_order():
    assert take(sampler(), 100) == take(sampler(), 100)
    assert take(sampler(seed=None), 50) == take(sampler(seed=0), 50)


@pytest.mark.parametrize("mode", ["alternate", "mixed"])
def test_several_sources_each_show_every_sample_once_per_visit(mode):
    stream = take(sampler(TWO, mode=mode, global_batch=8), 4000)
    counts = Counter(stream)
    assert set(counts.values()) == {1}
    for first, size in ((0, 17), (17, 40)):
        visits = [v for i, v in stream if first <= i < first + size]
        assert visits == sorted(visits), "a source begins an epoch when the last one is over"
        for visit in range(max(visits)):
            assert visits.count(visit) == size


def test_alternating_batches_come_from_one_source_by_weight():
    stream = take(sampler(TWO, mode="alternate", global_batch=8), 8 * 400)
    sources = [{int(i >= 17) for i, _ in stream[b : b + 8]} for b in range(0, len(stream), 8)]
    assert all(len(one) == 1 for one in sources)
    assert sum(one == {1} for one in sources) == 300


@pytest.mark.parametrize("weights", [[1, 1], [1, 3], [1, 1, 1, 1]])
@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_with_mixed_samples_every_rank_sees_every_source_by_its_weight(weights, world):
    """A cycle as long as the number of processes, or a part of it, would give each its own."""
    sources = Sources(*[[100]] * len(weights), weights=weights)
    for rank in range(world):
        stream = take(sampler(sources, rank, world, mode="mixed"), 4000)
        shares = np.bincount([index // 100 for index, _ in stream]) / 4000
        assert np.abs(shares - np.array(weights) / sum(weights)).max() < 0.04


def test_every_epoch_shuffles_a_block_anew():
    """One block of one shard: nothing but the order within it can differ."""
    stream = [index for index, _ in take(sampler(Sources([40])), 40 * 6)]
    epochs = {tuple(stream[begin : begin + 40]) for begin in range(0, 240, 40)}
    assert len(epochs) == 6


def test_mixed_samples_follow_the_weights_in_every_stretch():
    stream = take(sampler(TWO, mode="mixed"), 4000)
    for start in range(0, 4000, 400):
        assert sum(i >= 17 for i, _ in stream[start : start + 400]) == 300


@pytest.mark.parametrize("sources", [ONE, TWO])
@pytest.mark.parametrize("mode", ["alternate", "mixed"])
def test_any_number_of_processes_sees_the_same_global_batches(sources, mode):
    size, batches = 8, 30
    whole = take(sampler(sources, mode=mode, global_batch=size), size * batches)
    for world in (2, 4, 8):
        ranks = [
            take(sampler(sources, r, world, mode=mode, global_batch=size), size * batches // world)
            for r in range(world)
        ]
        local = size // world
        for b in range(batches):
            together = [one for rank in ranks for one in rank[b * local : (b + 1) * local]]
            assert sorted(together) == sorted(whole[b * size : (b + 1) * size])


@pytest.mark.parametrize("mode", ["alternate", "mixed"])
def test_skipping_equals_having_gone_there(mode):
    for position in (0, 1, 17, 100, 4095, 4096, 5000):
        options = dict(mode=mode, global_batch=8)
        straight = take(sampler(TWO, 1, 2, **options), position + 50)[position:]
        resumed = sampler(TWO, 1, 2, **options)
        resumed.skip(position)
        assert take(resumed, 50) == straight


@pytest.mark.parametrize("world", [1, 2])
def test_what_comes_later_is_told_and_changes_no_order(world):
    plain = take(sampler(TWO, global_batch=4, world=world), 80)
    made = sampler(TWO, global_batch=4, world=world, ahead=12)
    told = take(made, 60)
    assert [one[:2] for one in told] == plain[:60]
    assert [one[2] for one in told] == [index for index, _ in plain[12:72]]
    made.skip(7)
    assert take(made, 5) == told[7:12]


def test_a_run_resumed_with_other_processes_goes_on_with_the_same_batches():
    size = 8
    whole = take(sampler(TWO, global_batch=size), size * 20)
    ranks = []
    for rank in range(4):
        resumed = sampler(TWO, rank, 4, global_batch=size)
        resumed.skip(10 * size // 4)
        ranks.append(take(resumed, 10 * size // 4))
    for b in range(10):
        together = [one for rank in ranks for one in rank[2 * b : 2 * b + 2]]
        assert sorted(together) == sorted(whole[(10 + b) * size : (11 + b) * size])


def test_skipping_a_trillion_samples_is_immediate():
    made = sampler(TWO, global_batch=8)
    start = time.perf_counter()
    made.skip(10**12)
    take(made, 10)
    assert time.perf_counter() - start < 1


def test_skip_counts_from_the_beginning_and_refuses_nonsense():
    made = sampler()
    made.skip(5)
    made.skip(7)
    assert take(made, 3) == take(sampler(), 10)[7:]
    with pytest.raises(ValueError, match="-1"):
        made.skip(-1)


def test_blocks_keep_neighbouring_reads_in_few_shards():
    made = sampler(Sources([10] * 40), shards_per_block=4)
    shards = [index // 10 for index, _ in take(made, 400)]
    for start in range(0, 400, 40):
        assert len(set(shards[start : start + 40])) == 4
    assert len(set(shards[:5])) > 1, "samples of a block's shards are mixed"


@pytest.mark.parametrize(
    ("size", "batch", "block", "distinct"),
    [(1000, 512, 32, 32), (1000, 4096, 66, 66), (500, 16_384, 256, 200), (10_000, 16_384, 32, 32)],
)
def test_a_batch_holds_samples_of_all_shards_of_a_block_that_holds_sixteen_batches(
    size, batch, block, distinct
):
    made = PairSampler(Sources([size] * 400), seed=3, global_batch=batch)
    assert made.shards_per_block == block
    index, _ = made.order(np.arange(batch, 2 * batch))
    assert len(np.unique(index // size)) >= distinct


def test_sources_of_small_and_large_shards_have_blocks_of_their_own():
    made = PairSampler(Sources([10_000] * 300, [500] * 300), seed=3, global_batch=4096)
    assert made.shards_per_block == [32, 132]
    assert [order.shards_per_block for order in made.orders] == [32, 132]


def test_no_permutation_is_larger_than_a_block():
    made = sampler(Sources([1000] * 1000), shards_per_block=2)
    take(made, 5000)
    assert len(made.orders[0]._block[1]) == 2000


def test_it_is_fast_enough_for_any_loader():
    made = sampler(Sources([10_000] * 300, [5_000] * 300), global_batch=4096, shards_per_block=32)
    start = time.perf_counter()
    take(made, 200_000)
    assert time.perf_counter() - start < 1


def test_wrong_arguments_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="global_batch = batch_size"):
        sampler(TWO)
    with pytest.raises(ValueError, match="'mixed'"):
        sampler(mode="random")
    with pytest.raises(ValueError, match="shards_per_block"):
        sampler(shards_per_block=0)
    for weights in ([1, 0], [1, -1], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(ValueError, match="positive"):
            sampler(Sources([1], [1], weights=weights), global_batch=1)
    with pytest.raises(ValueError, match="never be drawn"):
        sampler(Sources([1], [1], weights=[1, 1e-6]), global_batch=1)


def test_fewer_samples_than_a_global_batch_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"has 7 samples, fewer than one global batch of 8"):
        sampler(Sources([3, 4]), global_batch=8)
    with pytest.raises(ValueError, match=r"source 1 has 3 samples, fewer .* of 4: lower data"):
        sampler(Sources([5], [3]), global_batch=4)
    with pytest.raises(ValueError, match=r"source 1 has 3 samples, fewer than the 4 of a global"):
        sampler(Sources([5], [3]), global_batch=8, mode="mixed")
    mixed = sampler(Sources([5], [4]), global_batch=8, mode="mixed")
    assert len({index for index, _ in take(mixed, 8)}) == 8
    with pytest.raises(ValueError, match=r"source 0 has 2 samples, fewer than the 3 of a global"):
        sampler(Sources([2], [8], weights=[1, 2]), global_batch=8, mode="mixed")  # 2 2/3 of 8
    with pytest.raises(ValueError, match="the data has 8 samples"):
        sampler(Sources([5], [3]), global_batch=9, mode="mixed")


def test_natural_weights_have_a_cycle_of_bounded_length():
    for weights in ([592, 3334, 14], [83, 3.3, 12.4, 0.59], [12.4, 3.3, 0.85, 0.1, 0.59]):
        schedule = Schedule(weights, seed=1)
        assert len(schedule.cycle) == LONGEST_CYCLE == schedule.per_cycle.sum()
        wanted = np.asarray(weights) / sum(weights)
        whole, fraction = np.divmod(wanted * LONGEST_CYCLE, 1)
        up = schedule.per_cycle - whole  # those with the largest fractions
        assert set(up) == {0, 1} and fraction[up == 1].min() >= fraction[up == 0].max()
    assert len(Schedule([2, 1], seed=1).cycle) == 3  # as it always was


def test_where_each_cycle_begins_follows_the_seed():
    begins = {tuple(Schedule([1, 1], seed)(np.arange(0, 40, 2))[0]) for seed in range(8)}
    assert len(begins) == 8  # and not two, for the two orders that a cycle of two has


def test_the_schedule_agrees_with_counting():
    schedule = Schedule([0.5, 0.3, 0.2], seed=1)
    source, earlier = schedule(np.arange(1000))
    seen: Counter[int] = Counter()
    for s, n in zip(source.tolist(), earlier.tolist(), strict=True):
        assert n == seen[s]
        seen[s] += 1
    assert seen == {0: 500, 1: 300, 2: 200}


def test_its_length_is_the_share_of_one_process():
    assert len(sampler()) == 38 and len(sampler(ONE, 0, 4)) == 10


def test_every_epoch_shuffles_the_shards_and_every_source_has_an_order_of_its_own():
    shards = [index // 5 for index, _ in take(sampler(Sources([5] * 8), shards_per_block=1), 240)]
    epochs = {tuple(dict.fromkeys(shards[begin : begin + 40])) for begin in range(0, 240, 40)}
    assert len(epochs) == 6 and all(sorted(one) == list(range(8)) for one in epochs)
    made = sampler(Sources([40], [40]), mode="mixed")
    first, second = (order(np.arange(40))[0].tolist() for order in made.orders)
    assert first != second
