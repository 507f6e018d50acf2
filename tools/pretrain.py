"""Pre-train a backbone on captioned images.

python tools/pretrain.py configs/quickstart/sparc.py [--objective clip]
torchrun --nproc-per-node 8 tools/pretrain.py configs/sparc.py --launcher pytorch --amp
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from sparc_pretrain.command import cli
from sparc_pretrain.command.launcher import LAUNCHERS, init_distributed
from sparc_pretrain.engine import checkpoint as files
from sparc_pretrain.engine import mmengine_patches
from sparc_pretrain.pretraining.recipe import check_sections, complete, with_objective


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, e.g. configs/sparc.py")
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="train the objective of configs/NAME.py (clip, filip, ...) with this config's data, "
        "towers and schedule",
    )
    parser.add_argument("--work-dir", help="checkpoints, logs and the run folder go there")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="continue from PATH, or from the newest valid checkpoint of the work dir (auto)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the checkpoints of an earlier training"
    )
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--accumulate", type=int, help="micro-batches per step (exact)")
    parser.add_argument("--compile", action="store_true", help="torch.compile both towers")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="key=value overrides")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Build what the config says and train it; exit code 0, or 75 when stopped by a signal."""
    args = parse(argv)
    if args.compile:
        need_compiler()
    mmengine_patches.install()
    init_distributed(args.launcher)
    cfg = load(args)
    runner = Runner.from_cfg(cfg)
    if args.compile:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.encoder.vision.compile()
        model.encoder.text.compile(dynamic=True)
    runner.train()
    return 0


def need_compiler() -> None:
    """Raises ValueError when `torch.compile` would fail in the first step."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    if not any(name and shutil.which(name) for name in names):
        raise ValueError(
            "--compile needs a C++ compiler (g++, clang++ or what CXX names): install one, or "
            "leave --compile out"
        )


def load(args: argparse.Namespace) -> Config:
    """The complete config of a command line."""
    cfg = cli.read_config(args.config)
    if args.objective:
        with_objective(cfg, args.objective)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    name = args.objective or Path(args.config).stem
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{name}"
    check_sections(cfg)
    cli.check_config(cfg)
    cli.writable(cfg.work_dir)
    if args.resume is None and not args.force:
        files.refuse_overwriting(cfg.work_dir)
    complete(cfg, args.accumulate, args.amp, anew=args.force and args.resume is None)
    checkpoint = mmengine_patches.resolve_resume(cfg.work_dir, args.resume)
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, str(checkpoint)
    return cfg


if __name__ == "__main__":
    cli.guard(main)
