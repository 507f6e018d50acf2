"""A pre-training that starts from another run's weights (`model.init_from`): what its config takes
over from that run, and the weights, only where words and towers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.text import TextStyle

TEXT_STYLE = {field.name for field in fields(TextStyle)}
# Of a tower's config: names of one architecture, and what changes no weight's meaning.
MAY_DIFFER = ("arch", "overrides", "dropout", "img_size", "max_tokens")
TEXT_SIZES = ("width", "heads", "layers")
TEXT_POSITIONS = "text.net.embeddings.position_embedding.weight"


def adopt(cfg: Config) -> bool:
    """Words and pixels are read as in the run of `model.init_from`, in place, where the config does
    not say otherwise; nothing happens without one. Returns whether the run's words are taken.

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
        return False
    run = run_folder.open_run(source)
    DualEncoder.on_paper(run)  # what is taken over from its config is built
    alone = vision_alone(cfg.model.text, run.config["text"])
    for key in ("mean", "std", *([] if alone else ["global_head"])):
        if key in run.config:
            cfg.model.setdefault(key, run.config[key])
    cfg.model.vision.setdefault("overrides", run.config["vision"].get("overrides") or {})
    if alone:
        return False
    text = run.config["text"] or {}
    cfg.model.text.setdefault("style", {k: v for k, v in text.items() if k in TEXT_STYLE})
    if "train" in cfg.tokenizer:
        cfg.tokenizer = dict(load=str(source))
    return True


def vision_alone(here: Mapping[str, Any], there: Mapping[str, Any] | None) -> bool:
    """Whether the vision tower alone is taken, by the configs of the text towers: UNITER, Oscar
    and Kaleido-BERT have none, so nothing of a run with one fits their words.
    """
    return here.get("layers") == 0 and (there or {}).get("layers", 0) != 0


def load(encoder: DualEncoder, source: str | Path) -> None:
    """Put the weights of the run at `source` into `encoder`, all of them and strictly; see
    `vision_alone` for when they are those of the vision tower.

    Images of another size get the run's position embeddings resampled (timm's bicubic,
    antialiased), as the usual last stage at a higher resolution needs them; a longer `max_tokens`
    keeps the run's positions and adds those of `encoder`, which were drawn at random.

    Raises:
        ValueError: other words or towers, also where all weights would fit (vocabularies of one
            size, attention heads, causal attention, pooling), or weights that do not fit;
            FileNotFoundError, InvalidRunFolder: see `run_folder.open_run`.
    """
    run = run_folder.open_run(source)
    drawn = DualEncoder.on_paper(run)
    alone = vision_alone(encoder.text.config(), run.config["text"])
    words, ours = run.path / run_folder.TOKENIZER, encoder.tokenizer
    if not alone and ours and words.exists() and Tokenizer.load(words).to_json() != ours.to_json():
        raise ValueError(
            f"init_from={run.path}: its text tower knows another vocabulary; set "
            f"tokenizer=dict(load={str(run.path)!r}) and take another --work-dir"
        )
    ours, theirs = encoder.config(), run.config
    unlike = []
    for tower in ("vision",) if alone else ("vision", "text"):
        here, there = ours[tower], theirs[tower] or {}
        unlike += [
            f"{tower}.{key} {there[key]!r} there, {here[key]!r} here"
            for key in here
            if key in there and key not in MAY_DIFFER and here[key] != there[key]
        ]
    here, there = (m.vision.net.blocks[0].attn.num_heads for m in (encoder, drawn))
    unlike += [f"vision heads {there} there, {here} here"] if here != there else []
    if not alone and ours["width"] != theirs["width"]:
        unlike.append(f"width {theirs['width']} there, {ours['width']} here")
    if unlike:
        mend = [] if alone else _sizes(ours, theirs)
        said = f"; its sizes: --cfg-options {' '.join(mend)}" if mend else ""
        raise ValueError(f"init_from={run.path} has other towers: {'; '.join(unlike)}{said}")
    weights = {k: v for k, v in run.weights().items() if not k.startswith("objective.")}
    if alone:
        own = encoder.state_dict()
        weights = {k: v for k, v in weights.items() if k.startswith("vision.")}
        weights |= {k: own[k] for k in own.keys() - weights.keys() if not k.startswith("vision.")}
        print_log(f"init_from={run.path}: its vision tower, which reads no words here", "current")
    _stretch(encoder, weights, f"init_from={run.path}")
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"init_from={run.path}: {error}") from None


def _sizes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The options of a config that make its text tower and shared width those of a run, where they
    are others.
    """
    here, there = ours["text"], theirs["text"] or {}
    found = [f"model.text.{k}={there[k]}" for k in TEXT_SIZES if there.get(k, here[k]) != here[k]]
    if ours["width"] != theirs["width"]:
        found.append(f"model.width={theirs['width']}")
    if there.get("max_tokens", 0) > here["max_tokens"]:
        found.append(f"data.max_tokens={there['max_tokens']}")
    return found


def load_objective(objective: nn.Module, source: str | Path) -> None:
    """Take temperature, heads and fusion encoder of the run at `source` too, where it was trained
    by the same objective with weights of the same shapes; the log says so, or why not.
    """
    run = run_folder.open_run(source)
    kind = type(objective).__name__
    if (run.config["objective"] or {}).get("type") != kind:
        return
    weights, own = run.weights("objective."), objective.state_dict()
    unlike = {k for k in weights.keys() | own.keys() if k not in weights or k not in own}
    unlike |= {k for k in weights.keys() & own.keys() if weights[k].shape != own[k].shape}
    if unlike:
        said = f"starts anew: {len(unlike)} of its weights are others, {min(unlike)} among them"
    else:
        objective.load_state_dict(weights)
        said = "goes on with its weights"
    print_log(f"init_from={run.path}: {kind} {said}", "current")


@torch.no_grad()
def _stretch(encoder: DualEncoder, weights: dict[str, Tensor], who: str) -> None:
    """Make the run's position embeddings those of `encoder`'s image size and caption length, in
    place.

    Raises ValueError for shorter captions: the run's last positions would be thrown away.
    """
    net, name = encoder.vision.net, "vision.net.pos_embed"
    if name in weights and net.pos_embed is not None:
        prefix = 0 if net.no_embed_class else encoder.vision.prefix
        side = math.isqrt(weights[name].shape[1] - prefix)
        if weights[name].shape[1] != net.pos_embed.shape[1]:
            weights[name] = resample_abs_pos_embed(
                weights[name], list(net.patch_embed.grid_size), [side, side], prefix
            )
            print_log(
                f"{who}: positions of {side} x {side} patches are resampled to "
                f"{' x '.join(map(str, net.patch_embed.grid_size))}",
                "current",
            )
    own = encoder.state_dict().get(TEXT_POSITIONS)
    theirs = weights.get(TEXT_POSITIONS)
    if own is None or theirs is None or len(own) == len(theirs):
        return
    if len(own) < len(theirs):
        raise ValueError(
            f"{who} reads {len(theirs)} tokens of a caption, data.max_tokens={len(own)}: set "
            f"{len(theirs)} or more"
        )
    weights[TEXT_POSITIONS] = torch.cat([theirs, own[len(theirs) :].cpu()])
    print_log(f"{who}: {len(own) - len(theirs)} positions of captions are new", "current")
