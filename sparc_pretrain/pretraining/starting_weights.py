"""A pre-training that starts from another run's weights (`model.init_from`): what its config takes
over from that run, and the weights, only where words and towers are the same.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from mmengine.config import Config

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.text import TextStyle

TEXT_STYLE = {field.name for field in fields(TextStyle)}
# Of a tower's config: names of one architecture, and what changes no weight's meaning.
MAY_DIFFER = ("arch", "overrides", "dropout")


def adopt(cfg: Config) -> None:
    """Words and pixels are read as in the run of `model.init_from`, in place, where the config does
    not say otherwise; nothing happens without one.

    Raises:
        ValueError: `model.locked` without weights to keep; FileNotFoundError, InvalidRunFolder: see
            `run_folder.open_run`.
    """
    source = cfg.model.get("init_from")
    if not source:
        if cfg.model.get("locked") and not cfg.get("load_from"):
            raise ValueError(
                f"model.locked={cfg.model.locked!r} would keep random weights as they are: say"
                " where the tower comes from with model.init_from=RUN"
            )
        return
    run = run_folder.open_run(source)
    DualEncoder.on_paper(run)  # what is taken over from its config is built
    for key in ("mean", "std", "global_head"):
        if key in run.config:
            cfg.model.setdefault(key, run.config[key])
    cfg.model.vision.setdefault("overrides", run.config["vision"].get("overrides") or {})
    text = run.config["text"] or {}
    cfg.model.text.setdefault("style", {k: v for k, v in text.items() if k in TEXT_STYLE})
    if "train" in cfg.tokenizer:
        cfg.tokenizer = dict(load=str(source))


def load(encoder: DualEncoder, source: str | Path) -> None:
    """Put the weights of the run at `source` into `encoder`, all of them and strictly.

    Raises:
        ValueError: other words or towers, also where all weights would fit (vocabularies of one
            size, attention heads, causal attention, pooling), or weights that do not fit;
            FileNotFoundError, InvalidRunFolder: see `run_folder.open_run`.
    """
    run = run_folder.open_run(source)
    words, ours = run.path / run_folder.TOKENIZER, encoder.tokenizer
    if ours and words.exists() and Tokenizer.load(words).to_json() != ours.to_json():
        raise ValueError(
            f"init_from={run.path}: its text tower knows another vocabulary; set "
            f"tokenizer=dict(load={str(run.path)!r}) and take another --work-dir"
        )
    unlike = []
    for tower in ("vision", "text"):
        here, there = encoder.config()[tower], run.config[tower] or {}
        unlike += [
            f"{tower}.{key} {there[key]!r} there, {here[key]!r} here"
            for key in here
            if key in there and key not in MAY_DIFFER and here[key] != there[key]
        ]
    if unlike:
        raise ValueError(f"init_from={run.path} has other towers: {'; '.join(unlike)}")
    weights = {k: v for k, v in run.weights().items() if not k.startswith("objective.")}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"init_from={run.path}: {error}") from None
