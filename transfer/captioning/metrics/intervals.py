"""How sure a caption score is: percentile bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

TINY, SMALL = 1e-15, 1e-9  # pycocoevalcap's, against division by zero


def resampled_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    """[resamples,images]: how often each image is in each resample of `images` draws."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples)


def mean_interval(
    values: Sequence[float], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean over images. Raises ValueError for no values."""
    if not len(values):
        raise ValueError("there are no values to resample")
    counts = resampled_counts(len(values), resamples, seed)
    return percentiles(counts @ np.asarray(values, dtype=float) / len(values), level)


def ratio_interval(
    part: Sequence[float],
    whole: Sequence[float],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of sum(part) / sum(whole) over images, e.g. true among all statements; resamples
    without any are left out. (NaN, NaN) when there is none at all.
    """
    counts = resampled_counts(len(whole), resamples, seed)
    parts, wholes = counts @ np.asarray(part, dtype=float), counts @ np.asarray(whole, dtype=float)
    drawn = wholes > 0
    if not drawn.any():
        return float("nan"), float("nan")
    return percentiles(parts[drawn] / wholes[drawn], level)


def bleu_statistics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """[images,10]: what corpus BLEU is a function of the sums of; tokens joined by spaces in.

    Matches of 1- to 4-grams, their numbers in the candidate, its length, the closest reference's.
    """
    scorer = BleuScorer(n=4)
    for candidate, texts in zip(candidates, references, strict=True):
        scorer += (candidate, list(texts))
    rows = []
    for item in scorer.ctest:
        length = item["testlen"]
        closest = min((abs(one - length), one) for one in item["reflen"])[1]
        rows.append([*item["correct"], *item["guess"], length, closest])
    return np.asarray(rows, dtype=float)


def corpus_bleu(sums: np.ndarray) -> np.ndarray:
    """[...,10] summed statistics -> [...,4] BLEU-1..4 (Papineni et al. 2002), as pycocoevalcap."""
    matches, guesses, length, closest = np.split(sums, [4, 8, 9], axis=-1)
    precision = (matches + TINY) / (guesses + SMALL)
    bleu = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, 5))
    ratio = (length + TINY) / (closest + SMALL)
    return np.where(ratio < 1, bleu * np.exp(np.minimum(0, 1 - 1 / ratio)), bleu)


def bleu_intervals(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Intervals of corpus BLEU-1..4; arguments are tokens joined by spaces."""
    counts = resampled_counts(len(candidates), resamples, seed)
    found = corpus_bleu(counts @ bleu_statistics(candidates, references))
    return {f"BLEU-{n + 1}": percentiles(found[:, n], level) for n in range(4)}


def percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """The ends of the middle `level` of what the resamples gave."""
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
