"""Hugging Face checkpoints by name or from a folder -> Parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel
from transformers.utils import cached_file

from sparc_pretrain.convert import names
from sparc_pretrain.convert.from_hf import from_hf
from sparc_pretrain.convert.from_timm import load_timm
from sparc_pretrain.convert.hf_config import read_config
from sparc_pretrain.convert.parts import Parts
from sparc_pretrain.data.tokenizer import Tokenizer

# Weights that a checkpoint may lack or have more of: heads, and poolers that are not used.
OPTIONAL = ("pooler.", "classifier.", "position_ids", "mask_token", "decoder.")


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and tables: what a load lacks is an error here, in one line."""
    logger, bars = transformers.logging, transformers.logging.is_progress_bar_enabled()
    level = logger.get_verbosity()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    try:
        yield
    finally:
        logger.set_verbosity(level)
        if bars:
            logger.enable_progress_bar()


def load_hf(source: str, vision_only: bool = False) -> Parts:
    """A model by its Hugging Face name (cache or hub) or from a local folder.

    Only config, safetensors (or tensors-only torch files) and JSON are read; code of a repository
    is never run.

    Raises:
        ValueError: weights missing from the checkpoint, or another architecture. OSError: not to
            be fetched.
    """
    try:
        config = read_config(source)
    except Exception as error:  # hub, client and parser raise a dozen types
        raise _unfetchable(source, error) from None
    if config.model_type == "timm_wrapper":
        path = Path(source)
        return load_timm(source if path.is_dir() else f"hf-hub:{source}")
    if config.model_type.removesuffix("_vision_model") not in names.FAMILIES:
        raise ValueError(
            f"{source} is a {config.model_type}; converted are {sorted(names.FAMILIES)}"
        )
    try:
        with quiet():
            model, report = AutoModel.from_pretrained(
                source,
                config=config,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=False,
                dtype=torch.float32,
            )
    except Exception as error:
        raise _unfetchable(source, error) from None
    missing = sorted(k for k in report["missing_keys"] if not _optional(k))
    unknown = sorted(k for k in report["unexpected_keys"] if not _optional(k))
    if missing or unknown:
        raise ValueError(
            f"{source} does not fit its config.json: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}; download it again"
        )
    name = Path(source).resolve().name if Path(source).is_dir() else source
    words = None
    notes = []
    if hasattr(model, "text_model") and not vision_only:
        words = _tokenizer(source)
        if words is None or words.vocab_size > model.config.text_config.vocab_size:
            words = None
            notes.append("no tokenizer.json with begin and end: encode_text takes token ids only")
    processor = _json(source, "preprocessor_config.json")
    if not processor:
        notes.append("no preprocessor_config.json: mean and std are those usual for its family")
    parts = from_hf(model, name, processor, words, vision_only)
    parts.notes += notes
    return parts


def _optional(key: str) -> bool:
    return any(part in key for part in OPTIONAL)


def _unfetchable(source: str, error: Exception) -> OSError:
    reason = " ".join(str(error).split())[:300]
    return OSError(
        f"{source} cannot be loaded ({type(error).__name__}: {reason}); if it is on the hub, "
        "download its folder (config.json, model.safetensors) and pass that"
    )


def _json(source: str, file: str) -> dict[str, Any]:
    found = cached_file(
        source,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(found).read_text(encoding="utf-8")) if found else {}


def _tokenizer(source: str) -> Tokenizer | None:
    """The source's tokenizer, None when it has none that frames a text with begin and end."""
    try:
        return Tokenizer.load(source)
    except (ValueError, OSError):
        return None
