"""Where vocabularies come from: trained on captions, open_clip's, a file, the Hugging Face hub.

Each function gives a `tokenizers.Tokenizer` that frames a text as begin, tokens, end. Only JSON and
text are read; no code or pickle from outside is ever run.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

FILE = "tokenizer.json"
MAX_VOCAB = 32000
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

# open_clip cleans text with ftfy and html.unescape first; of their effects, captions meet these
CLEANED = {
    "\u2018": "'", "\u2019": "'", "\u201a": ",", "\u201c": '"', "\u201d": '"',
    "\ufb01": "fi", "\ufb02": "fl",
    "&amp;": "&", "&quot;": '"', "&#39;": "'", "&lt;": "<", "&gt;": ">",
}  # fmt: skip
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_bpe(captions: Iterable[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """See `Tokenizer.train`, which raises alike."""
    if not 259 <= vocab_size <= MAX_VOCAB:
        raise ValueError(f"vocab_size must be in 259..{MAX_VOCAB}, not {vocab_size}")
    inner = tokenizers.Tokenizer(models.BPE())
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    inner.normalizer = normalizers.Sequence(steps + [normalizers.Lowercase()] * lowercase)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
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
    return inner


def open_clip_bpe() -> tokenizers.Tokenizer:
    """See `Tokenizer.open_clip`, which raises alike."""
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
    inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    inner.post_processor = _frame(
        ("<start_of_text>", len(tokens) - 2), ("<end_of_text>", len(tokens) - 1)
    )
    inner.enable_padding(pad_id=0, pad_token=tokens[0])
    return inner


def from_file(path: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`; frame and padding may be named in the files beside it.

    Raises FileNotFoundError, or ValueError when it is no tokenizer or names no begin and end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no tokenizer here; it is one file named {FILE}")
    try:
        with _without_panics():
            inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
            _complete(inner, path)
            # what a file leaves out is missed here at the latest
            inner.encode("A red kite, 3 hills.")
    except (KeyboardInterrupt, SystemExit, OSError):
        raise
    except BaseException as error:  # the library raises bare Exception; a panic of Rust is none
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is not a tokenizer.json ({error})") from None
    return inner


@contextlib.contextmanager
def _without_panics() -> Iterator[None]:
    """Rust writes a panic, with its stack, past Python to the process's standard error: not here,
    where it becomes an error that is told in one line.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def from_hub(name: str) -> tokenizers.Tokenizer:
    """The tokenizer of a Hugging Face name, from the local cache or the hub.

    Raises FileNotFoundError when it cannot be had, ValueError like `from_file`.
    """
    from huggingface_hub import hf_hub_download  # a network library: loaded when it is asked for
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        for beside in ("tokenizer_config.json", "special_tokens_map.json"):
            try:
                hf_hub_download(name, beside)
            except (OSError, HfHubHTTPError):
                continue  # optional; a missing tokenizer.json is told below
        path = Path(hf_hub_download(name, FILE))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"{name}: neither a folder or file here nor a Hugging Face tokenizer in reach ({line})"
        ) from None
    return from_file(path)


def _complete(inner: tokenizers.Tokenizer, path: Path) -> None:
    """Add frame and padding that a Hugging Face folder keeps in files beside it."""
    padding = inner.padding
    inner.no_truncation()
    inner.no_padding()
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
    if padding is not None:
        inner.enable_padding(pad_id=padding["pad_id"], pad_token=padding["pad_token"])
    elif pad_id is not None:
        inner.enable_padding(pad_id=pad_id, pad_token=roles["pad_token"])


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
