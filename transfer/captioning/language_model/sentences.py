"""Text for a small language model: sentences from files, packed into blocks of tokens."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.tokenizer import Tokenizer

KINDS = "text with a sentence per line (.txt), TSV with an image and a text (.tsv), both also"
KINDS += " as .gz, or any caption file (COCO, Karpathy, Flickr, CSV, JSONL)"


def read_groups(files: Sequence[str | Path]) -> list[list[str]]:
    """The non-blank sentences of `files`, stripped, in order of their first: those of one image
    (by its file name, in whatever file) together, lines of plain text each alone.

    Raises FileNotFoundError; ValueError naming the file for an unknown kind, broken text or a file
    without a sentence.
    """
    named: dict[str, list[str]] = {}
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(f"no text file {file}")
        before = sum(map(len, named.values()))
        for number, (image, text) in enumerate(_read(file)):
            if text.strip():
                named.setdefault(image or f"{file}\n{number}", []).append(text.strip())
        if sum(map(len, named.values())) == before:
            raise ValueError(f"{file} has no sentence; known kinds: {KINDS}")
    return list(named.values())


def without(groups: Iterable[Sequence[str]], held_out: Iterable[Sequence[str]]) -> list[list[str]]:
    """`groups` but for sentences that are in `held_out` up to case, spaces and punctuation."""
    kept_away = {_letters(one) for group in held_out for one in group}
    kept = [[one for one in group if _letters(one) not in kept_away] for group in groups]
    return [group for group in kept if group]


def split(groups: Sequence[Sequence[str]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(training, validation): sentences of one image are never on both sides, nor equal ones.

    `share` is that of the images, at least one. Raises ValueError when there are too few for both.
    """
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    chosen = order[: max(1, round(share * len(groups)))]
    held = list(dict.fromkeys(one for i in sorted(chosen) for one in groups[i]))
    known = set(held)
    rest = [group for i, group in enumerate(groups) if i not in set(chosen)]
    train = [one for group in rest for one in group if one not in known]
    if not train:
        raise ValueError(f"{len(groups)} images or lines are too few to train on")
    random.Random(seed + 1).shuffle(train)  # captions of an image lie together in files
    return train, held


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


def _read(file: Path) -> Iterator[tuple[str, str]]:
    """(image, sentence); the image is '' where the file names none."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind not in ([".txt"], [".tsv"]):
        if packed or kind not in ([".json"], [".jsonl"], [".ndjson"], [".csv"]):
            raise ValueError(f"{file}: unknown kind of text; known kinds: {KINDS}")
        for image, texts in read_captions(file).items():
            yield from ((Path(image).stem, text) for text in texts)
        return
    try:
        data = gzip.decompress(file.read_bytes()) if packed else file.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text: {error}") from None
    for line in lines:
        image, _, text = line.rpartition("\t")
        yield Path(re.split(r"[\t#]", image)[0]).stem, text  # Flickr's IMAGE.jpg#0


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())
