"""How long to fine-tune on a number of photographs."""

from __future__ import annotations

import math

from mmengine.config import Config, ConfigDict

from transfer.plug.replace import Ledger

# A rule of thumb between what is usual for a few hundred photographs (100 passes) and COCO's
# 118,000 (ViTDet's 100 with strong augmentation, others' 12 to 36): each tenfold of the data halves
# the passes, so that 10 times the data are trained on 5 times as long.
PASSES, PHOTOGRAPHS = 100, 200
FEWEST, MOST = 12, 300
VALIDATIONS = 10  # in a training
WARM_UP = 250  # steps, at most a tenth of the training


def passes_of(photographs: int) -> int:
    """Passes over a training set: 100 at 200 photographs, 50 at 2,000, 25 at 20,000."""
    halvings = math.log10(max(photographs, 1) / PHOTOGRAPHS)
    return min(max(round(PASSES * 0.5**halvings), FEWEST), MOST)


def set_passes(cfg: Config, passes: int | str, photographs: int, ledger: Ledger) -> None:
    """A training of so many `passes` ('auto': `passes_of`), in place: epochs, validations,
    checkpoints, a linear warm-up and a cosine to zero.

    Raises ValueError: `passes` is neither 'auto' nor a number above 0.
    """
    if passes != "auto" and (not isinstance(passes, int) or passes < 1):
        raise ValueError(f"own_data.passes={passes!r}: 'auto', or how many")
    epochs = passes_of(photographs) if passes == "auto" else passes
    batch = cfg.train_dataloader.get("batch_size", 1)
    steps = epochs * math.ceil(photographs / batch)
    reason = f"{epochs} passes over {photographs} photographs, {steps} steps of {batch}"
    every = max(epochs // VALIDATIONS, 1)
    loop = ConfigDict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=every)
    ledger.set(cfg, "", "train_cfg", loop, reason)
    warm = min(WARM_UP, max(steps // 10, 1))
    plan = [
        ConfigDict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=warm),
        ConfigDict(
            type="CosineAnnealingLR",
            by_epoch=True,
            begin=0,
            end=epochs,
            T_max=epochs,
            convert_to_iter_based=True,
        ),
    ]
    ledger.set(cfg, "", "param_scheduler", plan, reason)
    cfg.default_hooks.checkpoint.update(by_epoch=True, interval=every)
    cfg.log_processor = {**(cfg.get("log_processor") or {}), "by_epoch": True}
    sampler = ConfigDict(type="DefaultSampler", shuffle=True)
    ledger.set(cfg.train_dataloader, "train_dataloader", "sampler", sampler, reason)
