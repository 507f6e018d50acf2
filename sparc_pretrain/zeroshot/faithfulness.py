"""K-Precision: how much of a retrieved caption is said of its image (Adlakha et al., arXiv
2307.16877; SPARC, Table 4).

Nouns and adjectives are told by textblob's PatternTagger: Brill's lexicon and rules, inside the
wheel, so that nothing is downloaded and a caption has the same tags everywhere.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.outcome import Outcome

ARTICLES = frozenset(("a", "an", "the"))
METRICS = (
    Metric(
        "K_P", headline=True, title="K-Precision", words="share of its words that are said of it"
    ),
    Metric("K_Pna", title="K-Precision, nouns and adjectives", words="the same of content words"),
    Metric("pooled_K_P", title="K-Precision, cosine"),
    Metric("pooled_K_Pna", title="K-Precision, nouns and adjectives, cosine"),
)
CONTENT_TAGS = ("NN", "JJ")  # Penn Treebank: nouns (NN, NNS, NNP ...) and adjectives (JJ, JJR ...)


def k_precision(
    candidates: list[str], references: list[list[str]], content_words: bool = False
) -> float:
    """Mean over items of the share of a candidate's tokens that its references hold.

    Lower case, no punctuation, no articles, split at white space; the references of an item are
    joined into one text, and a token counts as often as it occurs in both: |multiset
    intersection| / |candidate tokens|, 0 for a candidate without tokens.

    Args:
        content_words: of the candidate only nouns and adjectives count (K-Pna), against all tokens
            of the references.

    Returns:
        0 to 1.

    Raises:
        ValueError: no items, or another number of references than of candidates.
    """
    values = item_precisions(candidates, references, content_words)
    return sum(values) / len(values)


def item_precisions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], content_words: bool = False
) -> list[float]:
    """The values that `k_precision` averages, with its arguments and errors."""
    if len(candidates) != len(references) or not candidates:
        raise ValueError(
            f"{len(candidates)} candidates and {len(references)} lists of references: one list "
            "for each candidate, and at least one"
        )
    split = content_tokens if content_words else tokens
    values = []
    for candidate, texts in zip(candidates, references, strict=True):
        said = Counter(split(candidate))
        known = Counter(tokens(" ".join(texts)))
        values.append((said & known).total() / said.total() if said else 0.0)
    return values


def tokens(text: str) -> list[str]:
    """Lower-case tokens of `text` without punctuation and articles."""
    return [word for word in _words(text) if word not in ARTICLES]


def content_tokens(text: str) -> list[str]:
    """The nouns and adjectives among `tokens`, told in the whole text (articles help)."""
    words = _words(text)
    if not words:
        return []
    tagged = _tagger().tag(" ".join(words), tokenize=False)
    if [word for word, _ in tagged] != words:
        raise ValueError(f"the tagger split {text!r} into other words; please report it")
    return [w for w, tag in tagged if tag.startswith(CONTENT_TAGS) and w not in ARTICLES]


def _words(text: str) -> list[str]:
    # what SQuAD's normalisation deletes is ASCII punctuation; captions also have typographic marks
    kept = (c for c in text.lower() if not _is_punctuation(c))
    return "".join(kept).split()


def _is_punctuation(character: str) -> bool:
    ascii_symbol = character in "$+<=>^`|~"
    return ascii_symbol or unicodedata.category(character).startswith("P")


@functools.cache
def _tagger() -> Any:
    from textblob.en.taggers import PatternTagger  # two seconds, which few callers need

    return PatternTagger()


def retrieved(scores: Tensor) -> list[int]:
    """scores [I,T] -> the caption of each image: the first of its best ones.

    Raises ValueError for NaN, which would be taken for the best.
    """
    if scores.isnan().any():
        raise ValueError("the scores hold NaN")
    return scores.argmax(dim=1).tolist()


def evaluate(
    model: DualEncoder,
    objective: Objective,
    data: encode.CaptionedImages,
    resize: str = "crop",
    batch_size: int = 64,
    scores: dict[str, Tensor] | None = None,
) -> Outcome:
    """K-Precision of the best of all captions for each image against the image's own captions.

    ``K_P`` over all tokens, ``K_Pna`` over nouns and adjectives; read as the objective says, and by
    pooled cosine. ``chance_``: the first caption of another image, half the data set away.

    Args: scores: [I,T] of each of `encode.readers`, where they are known already.
    """
    own: list[list[str]] = [[] for _ in data.files]
    for text, image in zip(data.captions, data.image_of_text, strict=True):
        own[image].append(text)
    for file, texts in zip(data.files, own, strict=True):
        if not texts:
            raise ValueError(f"{file} has no caption")
    readers = encode.readers(objective)
    if scores is None:
        scores = encode.read_all(model, readers, data, resize, batch_size)
    away = len(own) // 2
    chosen = {
        name: [data.captions[t] for t in retrieved(similarity)]
        for name, similarity in scores.items()
    }
    if len(own) > 1:  # a single image has no other
        chosen["chance_"] = [texts[0] for texts in own[away:] + own[:away]]
    items = {
        name + key: item_precisions(texts, own, content)
        for name, texts in chosen.items()
        for key, content in (("K_P", False), ("K_Pna", True))
    }
    protocol = {
        "images": len(data.files),
        "captions": len(data.captions),
        "candidates": "all captions of the data set, the image's own among them",
        "references": "the image's own captions, joined; multiset overlap",
        "K_Pna": "nouns and adjectives by textblob's PatternTagger, against all reference tokens",
        "chance_": "the first caption of another image",
        "resize": resize,
        "img_size": model.vision.img_size,
        "read_by": encode.read_by(objective),
        "ties": "the first caption of the file",
    }
    metrics = {name: sum(values) / len(values) for name, values in items.items()}
    extra = {"retrieved": chosen[""]}
    return Outcome(metrics, protocol, items, list(range(len(own))), extra, METRICS)
