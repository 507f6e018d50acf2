"""Hugging Face checkpoints by name or from a folder -> Parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, CLIPVisionModelWithProjection
from transformers.utils import cached_file

from sparc_pretrain.blueprint import at_most
from sparc_pretrain.convert import hf_processor
from sparc_pretrain.convert.files import WEIGHT_FILES
from sparc_pretrain.convert.from_hf import from_hf, kind_of
from sparc_pretrain.convert.from_timm import load_timm
from sparc_pretrain.convert.hf_config import read_config
from sparc_pretrain.convert.parts import Parts
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.json_file import read_object

# The one model that AutoModel would build without its last layer.
PROJECTED = CLIPVisionModelWithProjection
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
    kind_of(config, source)
    projected = PROJECTED.__name__ in (config.architectures or ())
    try:
        with quiet(), as_large_as(source):
            model, report = (PROJECTED if projected else AutoModel).from_pretrained(
                source,
                config=config,
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
            f"{len(unknown)} unknown {unknown[:3]}: it holds {config.architectures}, read as "
            f"{type(model).__name__}; if they are one, download it again"
        )
    name = Path(source).resolve().name if Path(source).is_dir() else source
    words = None
    notes = []
    if hasattr(model, "text_model") and not vision_only:
        words = _tokenizer(source)
        if words is None or words.vocab_size > model.config.text_config.vocab_size:
            words = None
            notes.append("no tokenizer.json with begin and end: encode_text takes token ids only")
    try:
        processor = hf_processor.merged({f: _json(source, f) for f in hf_processor.FILES})
        parts = from_hf(model, name, processor, words, vision_only)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if not {"image_mean", "do_normalize"} & processor.keys():
        notes.append(
            f"neither {' nor '.join(hf_processor.FILES)} says mean and std: they are those usual "
            "for its family"
        )
    parts.notes += notes
    return parts


@contextmanager
def as_large_as(source: str) -> Iterator[None]:
    """No model is built that is larger than the files of weights in the folder `source`; a name
    on the hub is trusted with its size.

    Raises ValueError.
    """
    if not Path(source).is_dir():
        yield
        return
    held = sum(p.stat().st_size for p in Path(source).iterdir() if p.suffix in WEIGHT_FILES)
    with at_most(held, f"{source}: config.json describes a model larger than the weights there"):
        yield


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
    return read_object(found) if found else {}


def _tokenizer(source: str) -> Tokenizer | None:
    """The source's tokenizer, None when it has none that frames a text with begin and end."""
    try:
        return Tokenizer.load(source)
    except (ValueError, OSError):
        return None
