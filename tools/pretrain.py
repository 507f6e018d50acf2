"""Pre-train a backbone on captioned images.

python tools/pretrain.py configs/quickstart/sparc.py [--objective clip]
torchrun --nproc-per-node 8 tools/pretrain.py configs/sparc.py --launcher pytorch --amp
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from mmengine.config import Config


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    flags.config(parser, "config file, e.g. configs/sparc.py")
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="train the objective of configs/NAME.py (clip, filip, ...) with this config's data, "
        "towers and schedule",
    )
    flags.work_dir(parser, "checkpoints, logs and the run folder go there")
    flags.resume(parser)
    parser.add_argument(
        "--remote-sync",
        metavar="ADDRESS",
        help="a folder of a bucket (s3://bucket/runs/NAME, gs://...) where a copy of the work dir "
        "is kept while training goes on; --resume finds it there",
    )
    flags.amp(parser)
    parser.add_argument("--accumulate", type=int, help="micro-batches per step (exact)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the encoders")
    flags.launcher(parser)
    flags.cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Build what the config says and train it; exit code 0, or 75 when stopped by a signal."""
    args = parse(argv)
    if args.compile:
        flags.need_compiler()
    from mmengine.model import is_model_wrapper
    from mmengine.runner import Runner

    from sparc_pretrain.command.launcher import init_distributed
    from sparc_pretrain.engine import mmengine_patches
    from sparc_pretrain.engine.work_dir_lock import held

    mmengine_patches.install()
    init_distributed(args.launcher)
    cfg = load(args)
    with held(cfg.work_dir, wait=args.resume is not None):  # before anything is written there
        prepare(cfg, args)
        runner = Runner.from_cfg(cfg)
        if args.compile:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            model.encoder.vision.compile()
            model.encoder.text.compile(dynamic=True)
            for part in model.objective.compiled:
                part.compile(dynamic=True)
        runner.train()
    return 0


def load(args: argparse.Namespace) -> Config:
    """The config of a command line, checked; only reads, but for making the work dir."""
    from sparc_pretrain.pretraining.recipe import check_sections, with_objective

    cfg = cli.read_config(args.config)
    if args.objective:
        with_objective(cfg, args.objective)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.remote_sync = args.remote_sync or cfg.get("remote_sync")
    name = args.objective or Path(args.config).stem
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{name}"
    check_sections(cfg)
    cli.check_config(cfg)
    cli.writable(cfg.work_dir)
    return cfg


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Complete `cfg` in place, with what lies in its work dir or is put there."""
    from sparc_pretrain.distributed import from_first
    from sparc_pretrain.engine import checkpoint as files
    from sparc_pretrain.engine import mmengine_patches, remote_resume
    from sparc_pretrain.pretraining.recipe import complete

    if args.resume is None and not args.force:
        files.refuse_overwriting(cfg.work_dir)
    places = Path(cfg.work_dir), cfg.remote_sync, args.resume, args.force
    resume = from_first(lambda: remote_resume.prepare(*places))
    complete(cfg, args.accumulate, args.amp, anew=args.force and resume is None)
    if cfg.remote_sync:
        mirror = dict(type="sparc.RemoteSyncHook", address=cfg.remote_sync)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), mirror]
    checkpoint = mmengine_patches.resolve_resume(cfg.work_dir, resume)
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, str(checkpoint)


if __name__ == "__main__":
    cli.guard(main)
