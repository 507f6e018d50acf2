"""Text -> token ids, with the character span of each token; one file, `tokenizer.json`, holds all of it.

The file is that of the `tokenizers` library. The roles of the special tokens live in it too: begin and end
in its post-processor, padding in its padding section. Nothing here ever executes code from a file.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

MAX_VOCAB = 32000
# Text beyond this many characters per token asked for is not looked at: a caption of 1 MB costs
# no more than a page. English has about four characters per token.
CHARACTERS_PER_TOKEN = 64
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
FILE = "tokenizer.json"

# open_clip cleans text with ftfy and html.unescape first; these are their effects that captions meet
CLEANED = {
    "\u2018": "'", "\u2019": "'", "\u201a": ",", "\u201c": '"', "\u201d": '"',
    "\ufb01": "fi", "\ufb02": "fl", "&amp;": "&", "&quot;": '"', "&#39;": "'", "&lt;": "<", "&gt;": ">",
}  # fmt: skip
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Encoding:
    """One text: `ids`; `special` True for begin and end; `spans` (start, end) in characters of the text."""

    ids: list[int]
    special: list[bool]
    spans: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """A `tokenizers.Tokenizer` that frames each text as begin, tokens, end.

    Attributes: `vocab_size`, `pad_id`, `bos_id`, `eos_id`. Raises ValueError when the inner tokenizer has
    no begin and end, which `load` adds where the files name them.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        frame = inner.encode("").ids
        if len(frame) != 2:
            raise ValueError(
                f"the tokenizer frames an empty text with {len(frame)} special tokens, not with "
                "a begin and an end; give its tokenizer.json a post-processor that adds both"
            )
        self.bos_id, self.eos_id = frame
        self.pad_id: int = inner.padding["pad_id"] if inner.padding else 0
        inner.no_truncation()
        pad_token = inner.id_to_token(self.pad_id)
        inner.enable_padding(pad_id=self.pad_id, pad_token=pad_token)  # one text is never padded
        inner.encode_special_tokens = True  # "<eos>" inside a caption is text, not an end
        self.inner = inner

    # ------------------------------------------------------------ where tokenizers come from

    @classmethod
    def train(
        cls, captions: Iterable[str], vocab_size: int = MAX_VOCAB, lowercase: bool = True
    ) -> Tokenizer:
        """Learn a byte-level BPE of at most `vocab_size` tokens: any text is encoded, nothing is unknown.

        Raises ValueError when `vocab_size` is not in 259..32000 (256 bytes and three special tokens).
        """
        if not 259 <= vocab_size <= MAX_VOCAB:
            raise ValueError(f"vocab_size must be in 259..{MAX_VOCAB}, not {vocab_size}")
        inner = tokenizers.Tokenizer(models.BPE())
        steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        inner.normalizer = normalizers.Sequence(steps + [normalizers.Lowercase()] * lowercase)
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(captions, trainer)
        inner.post_processor = _frame((BOS, 1), (EOS, 2))
        inner.enable_padding(pad_id=0, pad_token=PAD)
        return cls(inner)

    @classmethod
    def open_clip(cls) -> Tokenizer:
        """open_clip's (CLIP's) tokenizer, 49,408 tokens, from the file inside the open_clip package.

        Ids equal `open_clip.tokenize` on ordinary captions; of its text repair (ftfy, HTML entities) only
        quotes, ligatures and the five common entities are done. Padding is 0, as there.
        Raises FileNotFoundError when open_clip is not installed.
        """
        spec = importlib.util.find_spec("open_clip")  # found, not imported: that takes seconds
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError("open_clip is not installed; pip install open_clip_torch")
        path = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
        merges = [tuple(line.split()) for line in lines]
        letters = _byte_letters()
        tokens = letters + [letter + "</w>" for letter in letters]
        tokens += ["".join(merge) for merge in merges]
        tokens += ["<start_of_text>", "<end_of_text>"]
        model = models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            end_of_word_suffix="</w>",
        )
        inner = tokenizers.Tokenizer(model)
        inner.add_special_tokens(["<start_of_text>", "<end_of_text>"])
        cleaned = [normalizers.Replace(old, new) for old, new in CLEANED.items()]
        spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        inner.normalizer = normalizers.Sequence(
            [*cleaned, normalizers.NFC(), *spaces, normalizers.Lowercase()]
        )
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.Sequence(
            [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
        )
        inner.post_processor = _frame(
            ("<start_of_text>", len(tokens) - 2), ("<end_of_text>", len(tokens) - 1)
        )
        inner.enable_padding(pad_id=0, pad_token=tokens[0])
        return cls(inner)

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """A tokenizer from a `tokenizer.json`, a folder with one, 'open_clip', or a Hugging Face name.

        A Hugging Face name is looked up in the local cache and on the hub; only its JSON files are read.
        Raises FileNotFoundError when nothing is found and ValueError when the file is no tokenizer.
        """
        path = Path(source).expanduser()
        if str(source) == "open_clip" and not path.exists():
            return cls.open_clip()
        if path.is_dir():
            path = path / FILE
        elif not path.exists() and not str(source).endswith(".json"):
            path = _from_hub(str(source))
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no tokenizer here; it is one file named {FILE}")
        try:
            inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a tokenizer.json ({error})") from None
        _complete(inner, path)
        return cls(inner)

    def save(self, folder: str | Path) -> Path:
        """Write `folder/tokenizer.json`; `load` gives an equal tokenizer. Returns the file's path."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.inner.to_str(pretty=True), encoding="utf-8")
        return path

    # ------------------------------------------------------------ what they do

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, max_tokens: int = 55) -> Encoding:
        """At most `max_tokens` ids, begin and end included; a longer text loses its tail, never the end.

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
        )

    def batch(self, texts: Sequence[str], max_tokens: int = 55) -> tuple[Tensor, Tensor, Tensor]:
        """Texts [B] -> ids [B,T] long, mask [B,T] bool (True = real), special [B,T] bool; T the longest."""
        encodings = [self.encode(text, max_tokens) for text in texts]
        return pad([e.ids for e in encodings], [e.special for e in encodings], self.pad_id)

    def words(self, text: str, encoding: Encoding) -> list[tuple[str, list[int]]]:
        """The words and marks of `text` with the positions of their tokens in `encoding`, for pictures.

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
        """The text of `ids` (as normalised by the tokenizer), without special and padding tokens."""
        special = {self.bos_id, self.eos_id}
        kept = [i for i in map(int, ids) if i not in special]
        while kept and kept[-1] == self.pad_id:
            kept.pop()
        return self.inner.decode(kept, skip_special_tokens=True)


def pad(
    ids: Sequence[Sequence[int]], special: Sequence[Sequence[bool]], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of ids and flags -> ids [B,T] long, mask [B,T] bool, special [B,T] bool, right-padded."""
    longest = max(map(len, ids), default=0)
    ids_BT = torch.full((len(ids), longest), pad_id, dtype=torch.long)
    mask_BT = torch.zeros(len(ids), longest, dtype=torch.bool)
    special_BT = torch.zeros(len(ids), longest, dtype=torch.bool)
    for row, (one, flags) in enumerate(zip(ids, special, strict=True)):
        ids_BT[row, : len(one)] = torch.as_tensor(one, dtype=torch.long)
        mask_BT[row, : len(one)] = True
        special_BT[row, : len(one)] = torch.as_tensor(flags, dtype=torch.bool)
    return ids_BT, mask_BT, special_BT


def _frame(bos: tuple[str, int], eos: tuple[str, int]) -> processors.PostProcessor:
    """begin, text, end; spans without the blank that byte-level tokens carry in front."""
    template = processors.TemplateProcessing(
        single=f"{bos[0]} $A {eos[0]}",
        special_tokens=list(dict([bos, eos]).items()),
    )
    return processors.Sequence([processors.ByteLevel(trim_offsets=True), template])


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, in CLIP's order: printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]


def _complete(inner: tokenizers.Tokenizer, path: Path) -> None:
    """Add frame and padding that a Hugging Face folder keeps in files beside its tokenizer.json."""
    roles: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        beside = path.with_name(name)
        if beside.is_file():
            for role, token in json.loads(beside.read_text(encoding="utf-8")).items():
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    roles[role] = token
    if len(inner.encode("").ids) != 2:
        eos = roles.get("sep_token") or roles.get("eos_token")
        bos = roles.get("cls_token") or roles.get("bos_token") or eos
        ids = [inner.token_to_id(token) if token else None for token in (bos, eos)]
        if None in ids:
            raise ValueError(f"{path}: no begin and end token in it, or in the files beside it")
        inner.post_processor = _frame((bos, ids[0]), (eos, ids[1]))
    pad_id = inner.token_to_id(roles.get("pad_token", ""))
    if inner.padding is None and pad_id is not None:
        inner.enable_padding(pad_id=pad_id, pad_token=roles["pad_token"])


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download  # a network library: loaded when it is asked for
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        for beside in ("tokenizer_config.json", "special_tokens_map.json"):
            try:
                hf_hub_download(name, beside)
            except (OSError, HfHubHTTPError):
                continue  # optional; a missing tokenizer.json is told below
        return Path(hf_hub_download(name, FILE))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"{name}: neither a folder or file here nor a Hugging Face tokenizer in reach ({line})"
        ) from None
