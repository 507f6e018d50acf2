"""The optimizer of a config that gets a ViT: layer-wise rates, AdamW, or a line that SGD stays."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from transfer.plug.replace import Change, Ledger

LAYER_DECAY = "LayerDecayConstructor"
# mm's own layer-wise learning rates, which know only the backbones they were written for
FOREIGN_DECAY = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")
FOREIGN_RATES = ("decay_rate", "layer_decay_rate")
# What plain ViTs are fine-tuned with (ViTDet, arXiv 2203.16527, app. A; MAE, 2111.06377, app. A).
ADAMW = ConfigDict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
POSITIONS = "backbone.tower.net.pos_embed"  # their name in a plugged model
CLIPPED = ConfigDict(max_norm=1.0)


def take_adamw(cfg: Config, ledger: Ledger) -> None:
    """AdamW for the config's optimizer, with its clipping; vectors and positions are not decayed.

    Raises:
        ValueError: no optimizer to replace.
    """
    wrapper = cfg.get("optim_wrapper")
    if not wrapper:
        raise ValueError("--adamw: the config has no optim_wrapper")
    path, reason = "optim_wrapper", "--adamw"
    ledger.set(wrapper, path, "optimizer", ConfigDict(ADAMW), reason)
    if not wrapper.get("clip_grad"):
        ledger.set(wrapper, path, "clip_grad", ConfigDict(CLIPPED), reason)
    if wrapper.get("constructor") != LAYER_DECAY:
        layer_wise(cfg, 1.0, ledger)


def note_optimizer(cfg: Config, ledger: Ledger) -> None:
    """The ledger says which optimizer stays, where it is one that ViTs are not trained with, or
    one that decays what is not decayed in ViTs.
    """
    wrapper = cfg.get("optim_wrapper") or {}
    optimizer = wrapper.get("optimizer") or {}
    if str(optimizer.get("type")).startswith("Adam"):
        decay = optimizer.get("weight_decay")
        if decay and _decays_positions(wrapper):
            reason = "decays the ViT's position embeddings too: --layer-decay 1 exempts them"
            path = "optim_wrapper.optimizer.weight_decay"
            ledger.changes.append(Change(path, decay, decay, reason))
        return
    kept = {key: optimizer[key] for key in ("type", "lr", "weight_decay") if key in optimizer}
    reason = "made for the old backbone; ViTs learn with AdamW at about 1e-4: see --adamw"
    ledger.changes.append(Change("optim_wrapper.optimizer", kept, kept, reason))


def _decays_positions(wrapper: ConfigDict) -> bool:
    """Whether mmengine's constructor decays them: the longest key in a parameter's name decides."""
    if wrapper.get("constructor") not in (None, "DefaultOptimWrapperConstructor"):
        return False
    told = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    found = [key for key in sorted(told) if key in POSITIONS]
    return not found or told[max(found, key=len)].get("decay_mult", 1) != 0


def layer_wise(cfg: Config, rate: float, ledger: Ledger) -> None:
    """Layer-wise learning rates, in place; see `transfer.backbone.layer_decay`.

    Raises:
        ValueError: a rate outside (0, 1], or no optimizer to give it to.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"layer decay {rate}: must be above 0 and at most 1 (ViTDet: 0.7 or 0.8)")
    if not cfg.get("optim_wrapper"):
        raise ValueError("layer decay: the config has no optim_wrapper")
    wrapper, path = cfg.optim_wrapper, "optim_wrapper"
    kept = {
        key: value
        for key, value in (wrapper.get("paramwise_cfg") or {}).items()
        if key not in (*FOREIGN_RATES, "decay_type", "num_layers")
    }
    reason = "learning rates fall from block to block"
    ledger.set(wrapper, path, "constructor", LAYER_DECAY, reason)
    params = ConfigDict(kept, layer_decay=rate)
    ledger.set(wrapper, path, "paramwise_cfg", params, reason)
