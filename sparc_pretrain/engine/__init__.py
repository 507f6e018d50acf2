"""Parts of mmengine's Runner made safe and exact; importing the package registers them."""

from sparc_pretrain.engine import (
    checkpoint_hook,
    non_finite,
    optim,
    preempt,
    random_state,
    remote_sync,
)

__all__ = ["checkpoint_hook", "non_finite", "optim", "preempt", "random_state", "remote_sync"]
