"""Text for a small language model: sentences from files, packed into blocks of tokens."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.tokenizer import Tokenizer

KINDS = "text with a sentence per line (.txt), TSV whose last column is text (.tsv), both also"
KINDS += " as .gz, or any caption file (COCO, Karpathy, Flickr, CSV, JSONL)"


def read_sentences(files: Sequence[str | Path]) -> list[str]:
    """The non-blank sentences of `files`, stripped, in order.

    Raises FileNotFoundError; ValueError naming the file for an unknown kind, broken text or a file
    without a sentence.
    """
    found: list[str] = []
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"no text file {file}")
        sentences = [one for one in (text.strip() for text in _read(file)) if one]
        if not sentences:
            raise ValueError(f"{file} has no sentence; known kinds: {KINDS}")
        found += sentences
    return found


def without(sentences: Iterable[str], held_out: Iterable[str]) -> list[str]:
    """`sentences` but those that are in `held_out` up to case, spaces and punctuation."""
    kept_away = {_letters(one) for one in held_out}
    return [one for one in sentences if _letters(one) not in kept_away]


def split(sentences: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(training, validation): equal sentences are never on both sides.

    Raises ValueError when there are too few sentences for both.
    """
    different = sorted(set(sentences))
    random.Random(seed).shuffle(different)
    held = set(different[: max(1, round(share * len(different)))])
    train = [one for one in sentences if one not in held]
    if not train:
        raise ValueError(f"{len(different)} different sentences are too few to train on")
    random.Random(seed + 1).shuffle(train)  # captions of an image lie together in files
    return train, sorted(held)


def pack(sentences: Iterable[str], tokenizer: Tokenizer, block: int) -> Tensor:
    """`begin words end begin words end ...` cut into [N,block] ids, the last row filled up with
    the first tokens. Sentences are cut at `block` tokens.
    """
    ids: list[int] = []
    for sentence in sentences:
        ids += tokenizer.encode(sentence, block).ids
    short = -len(ids) % block
    while short > 0:
        ids += ids[:short]
        short = -len(ids) % block
    return torch.tensor(ids).view(-1, block)


def _read(file: Path) -> Iterable[str]:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind not in ([".txt"], [".tsv"]):
        if packed or kind not in ([".json"], [".jsonl"], [".ndjson"], [".csv"]):
            raise ValueError(f"{file}: unknown kind of text; known kinds: {KINDS}")
        return [text for texts in read_captions(file).values() for text in texts]
    try:
        data = gzip.decompress(file.read_bytes()) if packed else file.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text: {error}") from None
    return [line.rpartition("\t")[2] for line in lines]


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())
