"""BLEU, ROUGE-L and CIDEr of captions, on the scales of coco-caption and pycocoevalcap.

The formulas are pycocoevalcap's own (its pure Python parts); the tokens are those of `ptb`. What is
called CIDEr there is CIDEr-D of Vedantam et al., CVPR 2015 (arXiv 1411.5726): clipped counts and a
Gaussian on the difference in length, times 10. METEOR and SPICE need Java and are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from mmengine.logging import print_log
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from transfer.captioning.metrics.ptb import PTBTokenizer

NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


@overload
def score(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenized: bool = False,
    per_item: Literal[False] = False,
) -> dict[str, float]: ...
@overload
def score(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenized: bool = False,
    *,
    per_item: Literal[True],
) -> tuple[dict[str, float], dict[str, list[float]]]: ...
def score(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenized: bool = False,
    per_item: bool = False,
) -> dict[str, float] | tuple[dict[str, float], dict[str, list[float]]]:
    """Score one caption per image against that image's references.

    `tokenized` says that both are PTB tokens joined by spaces already. BLEU is over the corpus with
    the closest reference length (Papineni et al. 2002), ROUGE-L (Lin 2004, beta 1.2) and CIDEr are
    means over images. CIDEr takes its document frequencies from these references, so it depends on
    the whole set, and is 0 for a set of one image. An empty candidate is allowed and scores 0.

    Returns `{name: value}` for `NAMES`: BLEU and ROUGE-L from 0 to 1, CIDEr from 0 to 10. With
    `per_item` also `{name: one value per image}`.
    An image whose references hold no word (an emoji) scores 0, as with pycocoevalcap; a warning
    counts them.
    Raises ValueError for no captions, lists of different lengths and an image without a reference;
    TypeError for what is not a string.
    """
    _check(candidates, references)
    if not tokenized:
        tokenizer = PTBTokenizer()
        candidates = tokenizer.tokenize(candidates)
        references = [tokenizer.tokenize(texts) for texts in references]
    wordless = [i for i, texts in enumerate(references) if not any(t.split() for t in texts)]
    if wordless:
        print_log(
            f"{len(wordless)} of {len(references)} items have no reference with a word in it and "
            f"score 0, the first is item {wordless[0]}",
            "current",
            level=30,
        )

    bleu, cider, rouge = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0), Rouge()
    rouge_items = []
    for candidate, texts in zip(candidates, references, strict=True):
        bleu += (candidate, list(texts))
        cider += (candidate, list(texts))
        rouge_items.append(float(rouge.calc_score([candidate], list(texts))))
    # BleuScorer and not Bleu: the latter prints
    bleu_corpus, bleu_items = bleu.compute_score(option="closest")
    cider_corpus, cider_items = cider.compute_score()
    corpus = [*bleu_corpus, sum(rouge_items) / len(rouge_items), cider_corpus]
    totals = {name: float(value) for name, value in zip(NAMES, corpus, strict=True)}
    if not per_item:
        return totals
    columns = [*bleu_items, rouge_items, cider_items]
    items = {name: [float(v) for v in values] for name, values in zip(NAMES, columns, strict=True)}
    return totals, items


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} captions but references for {len(references)}")
    if not candidates:
        raise ValueError("there are no captions to score")
    for index, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in [candidate, *texts]):
            raise TypeError(f"item {index}: expected one string and a list of reference strings")
        if not texts:
            raise ValueError(f"item {index} ({candidate!r}) has no reference caption")
