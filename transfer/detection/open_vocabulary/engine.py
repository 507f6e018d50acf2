"""What an open-vocabulary detector asks of the engine: two learning rates, and its tokenizer beside
its checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from torch import nn

from sparc_pretrain.distributed import rank
from sparc_pretrain.engine.optim import GroupedConstructor
from sparc_pretrain.registry import HOOKS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TextRateConstructor(GroupedConstructor):
    """The text tower and its adapter learn at `lr * text_lr_mult`, all else at lr: fast words
    forget those that detection data does not have (OWL-ViT, arXiv 2205.06230, app. A1.4).

    ``optim_wrapper = dict(constructor='TextRateConstructor',
    paramwise_cfg=dict(text_lr_mult=0.04))``
    """

    def scale(self, module: nn.Module, name: str) -> float:
        """text_lr_mult for ``text.*`` and ``g_t.*``, 1 elsewhere; times ``lr_mult``."""
        slow = name.startswith(("text.", "g_t."))
        mult = self.paramwise_cfg.get("text_lr_mult", 1.0) if slow else 1.0
        return mult * super().scale(module, name)


@HOOKS.register_module()
class TokenizerFileHook(Hook):
    """Before training: copies tokenizer.json to the work dir and names it in the config, so that
    the work dir's config and a checkpoint suffice for a test.
    """

    priority = "VERY_HIGH"  # before the config is copied into logs and checkpoints

    def before_train(self, runner: Runner) -> None:
        """Every process changes its config; the first writes the files."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if model.tokenizer is None:
            raise ValueError("model.tokenizer is missing: --backbone RUN sets the run's own")
        path = Path(runner.work_dir) / "tokenizer.json"
        runner.cfg.model.tokenizer = str(path)
        if rank() == 0:
            model.tokenizer.save(path.parent)
            runner.dump_config()
