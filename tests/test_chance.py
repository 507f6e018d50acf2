"""Noise: the same bits for any device, cut and order, and evenly spread."""

import hashlib

import pytest
import torch

from sparc_pretrain import chance

M = 2**64


def mixed(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % M
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % M
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % M
    return z ^ (z >> 31)


def drawn(*words: int) -> float:
    h = 0
    for word in words[:4]:
        h = mixed(h ^ (word % M))
    return ((mixed(h ^ (words[4] % M)) >> 12) + 0.5) / 2**52


def test_noise_equals_the_hash_in_whole_numbers_of_any_size():
    key = torch.tensor([0, 5, -7, 2**63 - 1, -(2**63)])
    found = chance.uniform(2**63 + 11, 3, key, chance.Stream.TASK, 4)
    wanted = [[drawn(2**63 + 11, 3, 1, k, c) for c in range(4)] for k in key.tolist()]
    assert found.dtype == torch.float64 and found.tolist() == wanted
    others = torch.tensor([9, -9, 0])
    found = chance.pairs(1, 2, key, others, 7)
    assert found.tolist() == [[drawn(1, 2, 7, k, o) for o in others.tolist()] for k in key.tolist()]


def test_the_first_output_is_splitmix64s_of_seed_0():
    assert chance.mix(torch.tensor(0)).item() % M == 0xE220A8397B1DCDAF


def test_a_part_of_a_batch_draws_what_the_whole_draws():
    key = torch.randint(-(2**62), 2**62, (12,))
    whole = chance.uniform(0, 5, key, 4, 30)
    parts = [chance.uniform(0, 5, part, 4, 30) for part in key.chunk(3)]
    assert torch.equal(whole, torch.cat(parts))
    order = torch.randperm(12)
    assert torch.equal(
        chance.pairs(0, 5, key, key[order], 4), chance.pairs(0, 5, key, key, 4)[:, order]
    )


def test_numbers_lie_inside_0_and_1_and_are_evenly_spread():
    noise = chance.uniform(0, 0, torch.arange(1000), 2, 100)
    assert noise.min() > 0 and noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.005 and abs(noise.var() - 1 / 12) < 0.002
    assert chance.real(torch.tensor([-1, 0])).tolist() == [1 - 0.5 / 2**52, 0.5 / 2**52]
    of_steps = torch.stack([chance.uniform(0, s, torch.arange(50), 2, 1)[:, 0] for s in range(50)])
    assert torch.corrcoef(of_steps).fill_diagonal_(0).abs().max() < 0.6
    assert of_steps.unique().numel() == 2500


def test_tasks_are_picked_in_proportion():
    picked = [chance.pick(0, step, 1, (2, 2, 1, 0)) for step in range(4000)]
    share = torch.tensor(picked).bincount(minlength=4) / 4000
    assert torch.allclose(share, torch.tensor([0.4, 0.4, 0.2, 0.0]), atol=0.03)
    for step in range(50):
        u = drawn(0, step, 1, 0, 0)
        assert picked[step] == (0 if u < 0.4 else 1 if u < 0.8 else 2)
    for wrong in ((), (0, 0), (1, -1)):
        with pytest.raises(ValueError, match="ratios"):
            chance.pick(0, 0, 1, wrong)


def test_a_texts_number_is_the_start_of_its_sha_256():
    for text in ("", "coco/139", "ein Hund, läuft", "\ud800"):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        number = sum(byte << 8 * i for i, byte in enumerate(digest[:8]))
        assert chance.key_of(text) == (number if number < 2**63 else number - M)


def test_every_use_has_a_number_of_its_own():
    numbers = [int(stream) for stream in chance.Stream.__members__.values()]
    assert len(set(numbers)) == len(chance.Stream.__members__)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_the_same_bits():
    key = torch.randint(-(2**62), 2**62, (64,))
    here, there = (chance.uniform(3, 9, k, 2, 40) for k in (key, key.cuda()))
    assert torch.equal(here, there.cpu())
