"""Noise as a function of (seed, step, sample): a counter hash in whole numbers.

    mix(z)  = splitmix64's output function of z + 0x9E3779B97F4A7C15 (Steele et al., OOPSLA 2014)
    real(z) = ((z >> 12) + 1/2) / 2^52, in (0,1); of 53 bits the largest would round to 1
    chain   = h from 0, for each of seed, step, stream, key in this order: h = mix(h XOR word)

64-bit arithmetic wraps alike everywhere, so the bits are the same on every device, for any cut of a
batch into micro-batches and any number of processes. `step` counts optimizer steps from 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Stream(IntEnum):
    """What noise is drawn for: one number per use, never changed, so that none repeats another."""

    TASK = 1
    HARD_TEXT = 2
    HARD_IMAGE = 3
    WORD_MASK = 4
    WORD_REPLACEMENT = 5
    REGION_MASK = 6
    MATCH = 7
    PARTNER = 8
    POLLUTION = 9
    TAG_DONOR = 10
    CAPTION_DONOR = 11
    TURN = 12
    PERMUTATION = 13
    ALIGNED = 14
    FILL = 15
    DECOY = 16
    CANDIDATE_IMAGE = 17
    CANDIDATE_TEXT = 18


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: torch's keeps the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def mix(z: Tensor) -> Tensor:
    """z [...] long -> [...] long, evenly spread over 64 bits."""
    z = z + _signed(GAMMA)
    z = (z ^ _shifted(z, 30)) * _signed(FACTORS[0])
    z = (z ^ _shifted(z, 27)) * _signed(FACTORS[1])
    return z ^ _shifted(z, 31)


def real(z: Tensor) -> Tensor:
    """z [...] long -> [...] float64 in (0,1)."""
    return (_shifted(z, 12).double() + 0.5) / 2**52


def _chain(seed: int, step: int, stream: int, key: Tensor) -> Tensor:
    h = torch.zeros((), dtype=torch.long)
    for word in (seed, step, stream):
        h = mix(h ^ _signed(int(word)))
    return mix(h ^ key)  # one number of the CPU, which no GPU is waited for


def uniform(seed: int, step: int, key: Tensor, stream: int, count: int) -> Tensor:
    """`count` numbers in (0,1) for each of key [B] long -> [B,count] float64."""
    places = torch.arange(count, device=key.device)
    return real(mix(_chain(seed, step, stream, key)[:, None] ^ places))


def pairs(seed: int, step: int, key: Tensor, others: Tensor, stream: int) -> Tensor:
    """A number in (0,1) for each pair of key [n] and others [N] long -> [n,N] float64."""
    return real(mix(_chain(seed, step, stream, key)[:, None] ^ others))


def pick(seed: int, step: int, stream: int, ratios: Sequence[float]) -> int:
    """One of len(ratios) choices, in proportion to them: the same on every process.

    Raises ValueError for ratios that are negative or all 0.
    """
    if min(ratios, default=-1) < 0 or not sum(ratios):
        raise ValueError(f"ratios {list(ratios)}: none below 0, and not all 0")
    draw = uniform(seed, step, torch.zeros(1, dtype=torch.long), stream, 1).item() * sum(ratios)
    reached = 0.0
    for choice, ratio in enumerate(ratios):
        reached += ratio
        if reached > draw:
            return choice
    return max(i for i, ratio in enumerate(ratios) if ratio)  # the sum was rounded down


def member_keys(key: Tensor, count: int) -> Tensor:
    """Keys of the parts 0..count-1 (concepts) of samples key [B] -> [B,count] long."""
    return mix(key[:, None] ^ torch.arange(count, device=key.device))


def key_of(text: str) -> int:
    """A text's 64-bit number: the first 8 bytes of the SHA-256 of its UTF-8, little-endian,
    signed.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
