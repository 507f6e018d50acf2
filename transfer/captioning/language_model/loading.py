"""Causal language models and their tokenizers, from a name, a folder or an architecture; and what
tells one from another.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sparc_pretrain.convert.hf_config import read_config
from sparc_pretrain.data.tokenizer import Tokenizer

SOURCES = ("pretrained", "architecture", "model_type")


def load_language_model(
    config: dict[str, Any], tokenizer: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """(model, tokenizer, whether it is frozen).

    Args:
        config: one of `pretrained` (a folder that transformers or tools/pretrain_lm.py wrote, or a
            name), `architecture` (such a folder without weights: a checkpoint brings them) or
            `model_type` with options of that architecture (random weights). Also `frozen` (default:
            all but `model_type`), `dtype` ('bfloat16', ...), `pad_token` for a tokenizer without.
        tokenizer: tokenizer.json for a `model_type`, e.g. the run folder's.

    Raises:
        FileNotFoundError: no such folder, name or tokenizer. ValueError: an unknown model type or
            option, a tokenizer without padding or end, or one that is larger than the vocabulary.
    """
    options = dict(config)
    given = [key for key in SOURCES if key in options]
    if len(given) != 1:
        raise ValueError(f"language_model needs exactly one of {', '.join(SOURCES)}, not {given}")
    source = options.pop(given[0])
    frozen = bool(options.pop("frozen", given[0] != "model_type"))
    dtype = _dtype(options.pop("dtype", "float32"))
    pad_token = options.pop("pad_token", None)
    if given[0] == "model_type":
        if tokenizer is None:
            raise ValueError(f"model_type={source!r} needs tokenizer=FILE (or --backbone RUN)")
        words = wrap(Tokenizer.load(tokenizer))
        model = AutoModelForCausalLM.from_config(_config(source, options, words), dtype=dtype)
    else:
        if options:
            raise ValueError(f"{given[0]}={source!r} brings its architecture: drop {options}")
        model, words = _read(str(source), dtype, weights=given[0] == "pretrained")
    if pad_token is not None:
        words.pad_token = pad_token
    _check(model, words, str(source))
    # a folder may bring sampling, penalties and ends of its own: the captioner says all of it
    model.generation_config = GenerationConfig()
    model.requires_grad_(not frozen)
    return model.eval() if frozen else model, words, frozen


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Our tokenizer as transformers has them."""
    name = tokenizer.inner.id_to_token
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.inner,
        bos_token=name(tokenizer.bos_id),
        eos_token=name(tokenizer.eos_id),
        pad_token=name(tokenizer.pad_id),
        clean_up_tokenization_spaces=False,
    )


def digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bytes:
    """32 bytes that tell a language model's kind, size and vocabulary from another's."""
    text = model.config.get_text_config()
    sizes = [text.model_type, text.hidden_size, text.num_hidden_layers, text.vocab_size]
    said = json.dumps([sizes, sorted(tokenizer.get_vocab().items())])
    return hashlib.sha256(said.encode()).digest()


class LanguageIdentity(nn.Module):
    """Travels in checkpoints, so that weights meant for one language model are never read beside
    another, also where all shapes are the same.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        own = torch.frombuffer(bytearray(digest(model, tokenizer)), dtype=torch.uint8)
        self.register_buffer("sha256", own.clone())
        self.name = f"{model.config.model_type} with {len(tokenizer)} tokens"

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        theirs = state.get(f"{prefix}sha256")
        if theirs is None or not torch.equal(theirs.cpu(), self.sha256.cpu()):
            raise ValueError(
                "the checkpoint was trained with another language model or tokenizer than this"
                f" one ({self.name}): use the config in its work dir"
            )
        super()._load_from_state_dict(state, prefix, *rest)


def _read(
    source: str, dtype: torch.dtype, weights: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    local = Path(source).expanduser().is_dir()
    if not local and not _is_name(source):
        raise FileNotFoundError(
            f"no language model folder {source}: make one with tools/pretrain_lm.py"
        )
    try:
        config = read_config(source)
        if weights:
            # safetensors only: other files can execute code
            model = AutoModelForCausalLM.from_pretrained(
                source, config=config, use_safetensors=True, dtype=dtype, trust_remote_code=False
            )
        else:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        words = _tokenizer_class(source).from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = ValueError if local else FileNotFoundError
        raise kind(
            f"language model {source!r} cannot be read: {reason} (a folder of"
            " tools/pretrain_lm.py or transformers, or a name that is on the hub)"
        ) from None
    return model, words


def _tokenizer_class(source: str) -> type:
    """Of a folder with a tokenizer of our kind that kind: `AutoTokenizer` would go by the language
    model and give that family's tokenizer, which may add words to it (Qwen2's does).
    """
    path = Path(source).expanduser() / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    plain = said.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    return PreTrainedTokenizerFast if plain else AutoTokenizer


def _is_name(source: str) -> bool:
    """Whether `source` is written like a name on the hub, and not like a path on this machine."""
    owner = source.split("/")[0]
    is_path = "/" in source and (owner in ("work_dirs", "data") or Path(owner).is_dir())
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source) is not None and not is_path


def _config(model_type: str, options: dict[str, Any], words: PreTrainedTokenizerBase) -> Any:
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = difflib.get_close_matches(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, 3)
        raise ValueError(f"transformers has no causal language model {model_type!r}; near: {near}")
    known = AutoConfig.for_model(model_type)
    for key in options:
        if not hasattr(known, key):
            near = difflib.get_close_matches(key, known.to_dict(), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"a {model_type} language model has no option {key!r}{hint}")
    special = dict(
        vocab_size=len(words),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return AutoConfig.for_model(model_type, **{**special, **options})


def _check(model: PreTrainedModel, words: PreTrainedTokenizerBase, source: str) -> None:
    vocabulary = model.get_input_embeddings().num_embeddings
    if len(words) > vocabulary:
        raise ValueError(
            f"the language model {source} knows {vocabulary} tokens, its tokenizer {len(words)}:"
            " they do not belong together"
        )
    if words.eos_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no end-of-text token")
    if words.pad_token_id is None:
        raise ValueError(
            f"the tokenizer of {source} has no padding token: set"
            f" language_model.pad_token={words.eos_token!r}"
        )


def _dtype(name: str) -> torch.dtype:
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"language_model.dtype={name!r}: choose float32, bfloat16 or float16")
    return getattr(torch, name)
