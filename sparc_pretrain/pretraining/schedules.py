"""Learning rates over a training: a linear rise, then a cosine, a plateau or 1/sqrt(step), and a
linear cool-down.
"""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler

from sparc_pretrain.registry import PARAM_SCHEDULERS

SHAPES = ("cosine", "constant", "rsqrt")


@PARAM_SCHEDULERS.register_module()
class RsqrtLR(LRSchedulerMixin, _ParamScheduler):
    """The rate falls as sqrt(timescale / (timescale + step)), from `begin` on: no end has to be
    known before (Zhai et al., Scaling Vision Transformers, section 3.2).

    Args:
        optimizer: or an OptimWrapper. timescale: steps, above 0; where the warm-up is as long, the
            rate goes on as 1/sqrt of all steps so far. begin, end: steps. last_step, by_epoch,
            verbose: mmengine's.
    """

    def __init__(
        self,
        optimizer: Any,
        timescale: int,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = False,
        verbose: bool = False,
    ) -> None:
        if timescale < 1:
            raise ValueError(f"RsqrtLR: timescale must be 1 step or more, not {timescale}")
        self.timescale = timescale
        super().__init__(optimizer, begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        rates = [group[self.param_name] for group in self.optimizer.param_groups]
        if self.last_step == 0:
            return rates
        now = self.timescale + self.last_step
        return [rate * math.sqrt((now - 1) / now) for rate in rates]


def schedulers(
    steps: int, warmup: int, shape: str = "cosine", cool_down: int = 0
) -> list[dict[str, Any]]:
    """mmengine's `param_scheduler` for one training.

    Args:
        steps: of the training. warmup: of them, in which the rate rises. shape: 'cosine' to 0 at
            the end; 'constant', or 'rsqrt' with the warm-up as its time scale, which a longer
            training goes on with. cool_down: the last steps, in which these two fall to 0.

    Raises:
        ValueError: an unknown shape, or phases that do not fit into `steps`.
    """
    if shape not in SHAPES:
        raise ValueError(f"schedule.shape={shape!r}: use one of {', '.join(SHAPES)}")
    if cool_down and shape == "cosine":
        raise ValueError("schedule.cool_down is for 'constant' and 'rsqrt': a cosine ends at 0")
    last = steps - cool_down
    if not 0 <= warmup < steps or last < warmup:
        raise ValueError(
            f"schedule.warmup={warmup} and cool_down={cool_down} must fit into steps={steps}"
        )
    phases: list[dict[str, Any]] = []
    if warmup > 1:  # LinearLR of one step never reaches the rate
        phases.append(dict(type="LinearLR", start_factor=1e-3, begin=0, end=warmup))
    if shape == "cosine":
        phases.append(dict(type="CosineAnnealingLR", begin=warmup, end=steps, eta_min=0.0))
    elif shape == "rsqrt":
        scale = max(warmup, 1)
        phases.append(dict(type="sparc.RsqrtLR", timescale=scale, begin=warmup, end=last))
    if cool_down:
        fall = dict(type="LinearLR", start_factor=1.0, end_factor=0.0, begin=last, end=steps)
        phases.append(fall)
    return [dict(phase, by_epoch=False) for phase in phases]
