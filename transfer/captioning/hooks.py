"""What a captioner's checkpoint needs beside it, left in the work dir."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from sparc_pretrain.distributed import rank
from sparc_pretrain.registry import HOOKS


@HOOKS.register_module()
class CaptionerFilesHook(Hook):
    """Before training: copies tokenizer.json to the work dir and writes the language model's
    architecture into the config, so that the work dir's config and a checkpoint suffice for a test.
    """

    priority = "VERY_HIGH"  # before the config is copied into logs and checkpoints

    def before_train(self, runner: Runner) -> None:
        """Every process changes its config; the first writes the files."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        path = Path(runner.work_dir) / "tokenizer.json"
        lm_config = model.language_model.config.to_diff_dict()
        for key in ("transformers_version", "architectures", "dtype", "_name_or_path"):
            lm_config.pop(key, None)
        runner.cfg.model.tokenizer = str(path)
        runner.cfg.model.language_model = ConfigDict(
            lm_config,
            model_type=model.language_model.config.model_type,
            frozen=model.frozen_language_model,
        )
        if rank() == 0:
            model.tokenizer.save(path.parent)
            runner.dump_config()
