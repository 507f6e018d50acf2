"""Evaluate a fine-tuned checkpoint; mmdet's flags. Writes WORK_DIR/metrics.json.

python tools/test.py work_dirs/det/det.py work_dirs/det/iter_280.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sparc_pretrain.command import cli, flags


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    flags.config(parser, "config file, mmdet::NAME, or the copy in the work dir")
    parser.add_argument("checkpoint", help="checkpoint file")
    flags.backbone(parser, "run folder the checkpoint was made from")
    flags.data(parser)
    flags.work_dir(parser, "metrics.json and pictures go there")
    parser.add_argument("--tta", action="store_true", help="the config's test-time augmentation")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every prediction")
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds a window of --show stays (default 2)"
    )
    parser.add_argument(
        "--out", help="predictions: FILE.pkl of a detector, a folder of a segmentor's label maps"
    )
    flags.cfg_options(parser)
    flags.launcher(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Test as the config says."""
    args = parse(argv)
    from transfer.run import recipe  # first: it mends mmcv before mmcv is imported
    from transfer.run.augmented_tests import augment_tests
    from transfer.run.build import naming_parts
    from transfer.run.predictions import draw_tests, dump_tests  # isort: split

    from mmengine.runner import Runner

    from sparc_pretrain.command.launcher import init_distributed

    init_distributed(args.launcher)
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f"no checkpoint {args.checkpoint}")
    work_dir = args.work_dir or str(Path(args.checkpoint).parent / "test")
    cfg = recipe.load(args.config, args.cfg_options, work_dir, args.backbone, data=args.data)
    if args.tta:
        augment_tests(cfg)
    recipe.check_files(cfg, ("test_dataloader",))
    cfg.launcher, cfg.checkpoint = args.launcher, args.checkpoint
    # loaded by the Runner when its hooks are ready (a moving average makes its model in one)
    cfg.load_from, cfg.resume = args.checkpoint, False
    recipe.set_hook(cfg, "sparc.LoadedWeightsHook", strict=True)
    if args.launcher == "none":
        recipe.single_process_norms(cfg.model)
    if args.show or args.show_dir:
        draw_tests(cfg, args.show, args.show_dir, args.wait_time)
    if args.out:
        dump_tests(cfg, args.out)
    with naming_parts(cfg):
        Runner.from_cfg(cfg).test()
    return 0


if __name__ == "__main__":
    cli.guard(main)
