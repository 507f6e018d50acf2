"""Text -> token ids, with the character span of each token; one file, `tokenizer.json`, holds all
of it.

The file is that of the `tokenizers` library. The roles of the special tokens live in it too: begin
and end in its post-processor, padding in its padding section. Nothing here ever executes code from
a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import regex
import tokenizers
import torch
from torch import Tensor

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data.vocabularies import (
    FILE,
    MAX_VOCAB,
    from_file,
    from_hub,
    open_clip_bpe,
    train_bpe,
)

# Text beyond this many characters per token asked for is not looked at: a caption of 1 MB costs
# no more than a page. English has about four characters per token.
CHARACTERS_PER_TOKEN = 64
MASKS = ("[MASK]", "<mask>")  # BERT's and RoBERTa's name of the mask token
# \p{M}: vowel signs and accents that follow their letter belong to its word
WORD = regex.compile(r"[\w\p{M}]+(?:['\u2019-][\w\p{M}]+)*|[^\w\p{M}\s]")


@dataclass(frozen=True)
class Encoding:
    """One text: `ids`; `special` True for begin and end; `spans` (start, end) in characters of the
    text; `words` the number of the word that a token belongs to, -1 for begin and end.
    """

    ids: list[int]
    special: list[bool]
    spans: list[tuple[int, int]]
    words: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """A `tokenizers.Tokenizer` that frames each text as begin, tokens, end.

    Attributes: `vocab_size`, `pad_id`, `bos_id`, `eos_id`. Raises ValueError when the inner
    tokenizer has no begin and end, which `load` adds where the files name them.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        padding = inner.padding
        inner.no_truncation()
        inner.no_padding()
        frame = inner.encode("").ids
        if len(frame) != 2:
            raise ValueError(
                f"the tokenizer frames an empty text with {len(frame)} special tokens, not with "
                "a begin and an end; give its tokenizer.json a post-processor that adds both"
            )
        self.bos_id, self.eos_id = frame
        self.pad_id: int = padding["pad_id"] if padding else 0
        pad_token = inner.id_to_token(self.pad_id)
        if pad_token is None:
            raise ValueError(f"the tokenizer pads with id {self.pad_id}, which is no token of it")
        inner.enable_padding(pad_id=self.pad_id, pad_token=pad_token)  # one text is never padded
        inner.encode_special_tokens = True  # "<eos>" inside a caption is text, not an end
        self.inner = inner

    def __getstate__(self) -> str:
        return self.to_json()  # the library's own pickle forgets encode_special_tokens

    def __setstate__(self, state: str) -> None:
        self.__init__(tokenizers.Tokenizer.from_str(state))

    # ------------------------------------------------------------ where tokenizers come from

    @classmethod
    def train(
        cls, captions: Iterable[str], vocab_size: int = MAX_VOCAB, lowercase: bool = True
    ) -> Tokenizer:
        """Learn a byte-level BPE of at most `vocab_size` tokens: any text is encoded, nothing is
        unknown.

        Raises ValueError when `vocab_size` is not in 259..32000 (256 bytes and three special
        tokens).
        """
        return cls(train_bpe(captions, vocab_size, lowercase))

    @classmethod
    def open_clip(cls) -> Tokenizer:
        """open_clip's (CLIP's) tokenizer, 49,408 tokens, from the file inside the open_clip
        package.

        Ids equal `open_clip.tokenize` on ordinary captions; of its text repair (ftfy, HTML
        entities) only quotes, ligatures and the five common entities are done. Padding is 0, as
        there. Raises FileNotFoundError when open_clip is not installed.
        """
        return cls(open_clip_bpe())

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """A tokenizer from a `tokenizer.json`, a folder with one, 'open_clip', or a Hugging Face
        name.

        A Hugging Face name is looked up in the local cache and on the hub; only its JSON files are
        read. Raises FileNotFoundError when nothing is found and ValueError when the file is no
        tokenizer.
        """
        path = Path(source).expanduser()
        if str(source) == "open_clip" and not path.exists():
            return cls.open_clip()
        if path.is_dir():
            return cls(from_file(path / FILE))
        if path.exists() or path.suffix == ".json":
            return cls(from_file(path))
        return cls(from_hub(str(source)))

    def save(self, folder: str | Path) -> Path:
        """Write `folder/tokenizer.json`, from which `load` gives an equal one; returns its path."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.to_json().encode()
        atomic_write(path, lambda file: file.write(text))
        return path

    def to_json(self) -> str:
        """What `save` writes."""
        return self.inner.to_str(pretty=True)

    def with_mask(self) -> Tokenizer:
        """This tokenizer with a mask token: its own (`[MASK]` or `<mask>`), else one more id after
        all others.
        """
        if self.mask_id is None:
            self.inner.add_special_tokens([MASKS[0]])
        return self

    # ------------------------------------------------------------ what they do

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.inner.get_vocab_size(with_added_tokens=True)

    @property
    def mask_id(self) -> int | None:
        """The id of the mask token, None when there is none."""
        return next((i for name in MASKS if (i := self.inner.token_to_id(name)) is not None), None)

    @property
    def word_ids(self) -> tuple[int, int]:
        """(first, end) of the longest run of ids without a special token: what may stand in for a
        word that is hidden.
        """
        added = self.inner.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special}
        marks = sorted({-1, self.vocab_size, self.bos_id, self.eos_id, *special})
        runs = [(a + 1, b) for a, b in pairwise(marks)]
        return max(runs, key=lambda run: run[1] - run[0])

    def encode(self, text: str, max_tokens: int = 55) -> Encoding:
        """At most `max_tokens` ids, begin and end included; a longer text loses its tail, never the
        end.

        Raises ValueError for `max_tokens` below 2.
        """
        if max_tokens < 2:
            raise ValueError(f"max_tokens must hold begin and end, so at least 2, not {max_tokens}")
        skipped = len(text) - len(text.lstrip())
        text = text[skipped : skipped + CHARACTERS_PER_TOKEN * max_tokens]
        text = text.encode("utf-8", "replace").decode()  # lone surrogates have no bytes
        encoding = self.inner.encode(text)
        body = slice(1, 1 + min(len(encoding.ids) - 2, max_tokens - 2))
        spans = [(start + skipped, end + skipped) for start, end in encoding.offsets[body]]
        return Encoding(
            ids=[self.bos_id, *encoding.ids[body], self.eos_id],
            special=[True, *([False] * len(spans)), True],
            spans=[(0, 0), *spans, (0, 0)],
            words=[-1, *encoding.word_ids[body], -1],
        )

    def batch(self, texts: Sequence[str], max_tokens: int = 55) -> tuple[Tensor, Tensor, Tensor]:
        """Texts [B] -> ids [B,T] long, mask [B,T] bool (True = real), special [B,T] bool; T the
        longest.
        """
        encodings = [self.encode(text, max_tokens) for text in texts]
        return pad([e.ids for e in encodings], [e.special for e in encodings], self.pad_id)

    def words(self, text: str, encoding: Encoding) -> list[tuple[str, list[int]]]:
        """The words and marks of `text` with the positions of their tokens in `encoding`, for
        pictures.

        Words that were cut off are left out.
        """
        found = []
        for match in WORD.finditer(text):
            start, end = match.span()
            positions = [
                i
                for i, (a, b) in enumerate(encoding.spans)
                if not encoding.special[i] and a < end and b > start
            ]
            if positions:
                found.append((match.group(), positions))
            elif encoding.spans and start >= max(b for _, b in encoding.spans):
                break
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, as the tokenizer normalised it, without special and padding tokens."""
        special = {self.bos_id, self.eos_id}
        kept = [i for i in map(int, ids) if i not in special]
        while kept and kept[-1] == self.pad_id:
            kept.pop()
        return self.inner.decode(kept, skip_special_tokens=True).strip(" ")


def pad(
    ids: Sequence[Sequence[int]], special: Sequence[Sequence[bool]], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of ids and flags, right-padded -> ids, mask, special [B,T], as `Tokenizer.batch`."""
    ids_BT = pad_rows(ids, pad_id)
    length_B = torch.tensor([len(one) for one in ids], dtype=torch.long)
    mask_BT = torch.arange(ids_BT.shape[1]) < length_B[:, None]
    return ids_BT, mask_BT, pad_rows(special, 0).bool()


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Lists of whole numbers, right-padded with `fill` -> [B,T] long, T the longest."""
    padded = torch.full((len(rows), max(map(len, rows), default=0)), fill, dtype=torch.long)
    for row, one in enumerate(rows):
        padded[row, : len(one)] = torch.as_tensor(one, dtype=torch.long)
    return padded
