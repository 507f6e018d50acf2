"""Fine-tune a detector, segmentor or captioner with a SPARC backbone; mmdet's flags, plus
--backbone and --data.

    python tools/train.py configs/quickstart/det.py --backbone work_dirs/sparc/run
    python tools/train.py configs/my/det.py --backbone RUN --data DIR --amp
    python tools/train.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --backbone RUN --dry-run
    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_lvis.py --backbone RUN \\
        --launcher pytorch --amp
"""

from __future__ import annotations

import argparse

from sparc_pretrain.command import cli, flags


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    flags.config(parser, "config file, or mmdet::NAME / mmseg::NAME")
    flags.backbone(parser, "run folder whose backbone is used")
    flags.data(parser)
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="with --backbone: its architecture, but random weights (the baseline)",
    )
    parser.add_argument(
        "--layer-decay",
        type=float,
        metavar="RATE",
        help="learning rate of a block over that of the next (0.7 for B, 0.8 for L)",
    )
    parser.add_argument(
        "--adamw",
        action="store_true",
        help="with --backbone: AdamW at 1e-4 in the place of the config's optimizer",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what --backbone and --data change in the config, and why; train nothing",
    )
    parser.add_argument(
        "--freeze", type=int, metavar="N", help="train neither the embedding nor the first N blocks"
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="the config's batch in N parts, one after the other: the memory of a part",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    flags.work_dir(parser, "checkpoints, logs and metrics.json go there")
    flags.amp(parser)
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale lr to the batch size")
    flags.resume(parser)
    parser.add_argument(
        "--resume-schedule",
        choices=("same", "new"),
        default="same",
        help="new: go on with the config's schedule and rates where they are not the checkpoint's",
    )
    parser.add_argument(
        "--load-partially",
        action="store_true",
        help="take what fits of load_from, although not all of its backbone does",
    )
    flags.cfg_options(parser)
    flags.launcher(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, validating as the config says; metrics.json holds the last validation."""
    args = parse(argv)
    if args.dry_run and not (args.backbone or args.data):
        raise ValueError("--dry-run shows what --backbone RUN and --data DIR change: give it one")
    if args.compile:
        flags.need_compiler()
    from transfer.run import recipe  # first: it mends mmcv before mmcv is imported
    from transfer.run.build import naming_parts
    from transfer.run.means import accumulate, compile_backbones, freeze  # isort: split

    from mmengine.runner import Runner

    from sparc_pretrain.command.launcher import init_distributed
    from sparc_pretrain.engine import checkpoint as files
    from sparc_pretrain.engine import mmengine_patches
    from sparc_pretrain.engine.work_dir_lock import held

    init_distributed(args.launcher)
    cfg = recipe.load(
        args.config,
        args.cfg_options,
        args.work_dir,
        args.backbone,
        args.from_scratch,
        args.layer_decay,
        args.dry_run,
        args.adamw,
        args.data,
    )
    if args.dry_run:
        return 0
    recipe.check_files(cfg, ("train_dataloader", "val_dataloader"))
    cfg.launcher = args.launcher
    if args.launcher == "none":
        recipe.single_process_norms(cfg.model)
    if args.freeze is not None:
        freeze(cfg, args.freeze)
    accumulate(cfg, args.accumulate)
    cfg.optim_wrapper.amp = cfg.optim_wrapper.get("amp") or args.amp
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    with held(cfg.work_dir, wait=args.resume is not None):  # before anything is written there
        if args.resume is None and not args.force:
            files.refuse_overwriting(cfg.work_dir)
        checkpoint = mmengine_patches.resolve_resume(cfg.work_dir, args.resume)
        if checkpoint is not None:
            cfg.resume, cfg.load_from = True, str(checkpoint)
        recipe.set_hook(cfg, "sparc.LoadedWeightsHook", partial=args.load_partially)
        recipe.set_hook(cfg, "sparc.ResumedScheduleHook", new=args.resume_schedule == "new")
        with naming_parts(cfg):
            runner = Runner.from_cfg(cfg)
            if args.compile:
                compile_backbones(runner.model)
            runner.train()
    return 0


if __name__ == "__main__":
    cli.guard(main)
