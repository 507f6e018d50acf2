"""Draw a detector's or segmentor's predictions on any photo.

python tools/predict.py work_dirs/det/det.py work_dirs/det/iter_280.pth photo.jpg --out-dir out
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.dataset import Compose
    from mmengine.visualization import Visualizer
    from torch import nn


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    flags.config(parser, "config file (or its copy in the work dir)")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("images", nargs="+", help="image files")
    flags.backbone(parser, "run folder the checkpoint was made from")
    parser.add_argument("--out-dir", default="predictions")
    parser.add_argument("--words", help="what to look for, comma-separated (open vocabulary only)")
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below are not drawn")
    flags.cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write OUT_DIR/NAME.png for every image."""
    args = parse(argv)
    missing = [name for name in (args.checkpoint, *args.images) if not Path(name).is_file()]
    if missing:
        raise FileNotFoundError(f"no file {missing[0]}")
    from transfer.run import recipe  # first: it mends mmcv before mmcv is imported
    from transfer.run.build import naming_parts  # isort: split

    import torch
    from mmengine.dataset import pseudo_collate

    from transfer.mm import images

    cfg = recipe.load(args.config, args.cfg_options, args.out_dir, args.backbone)
    if cfg.get("task") == "captioning":
        raise ValueError(
            "a captioner writes text, not pictures: see captions.json of tools/test.py"
        )
    if args.words and cfg.model.get("type") != "sparc.OpenVocabularyDetector":
        raise ValueError("--words is for open-vocabulary detectors; this model has fixed classes")
    with naming_parts(cfg):
        model, pipeline, drawer = build(cfg, args)
    options = {} if cfg.get("default_scope") == "mmseg" else {"pred_score_thr": args.score_thr}
    # open-vocabulary models look for what they are asked for: other words, or the set's classes
    words = [word.strip() for word in (args.words or "").split(",") if word.strip()]
    asked = {"img_id": 0, "seg_fields": [], "text": words or drawer.dataset_meta.get("classes")}
    used: Counter[str] = Counter()
    for name in args.images:
        data = pseudo_collate([pipeline({**asked, "img_path": name})])
        with torch.inference_mode():
            sample = model.test_step(data)[0]
        stem = Path(name).stem
        used[stem] += 1  # a/x.jpg and b/x.jpg
        out = Path(args.out_dir) / (
            f"{stem}.png" if used[stem] == 1 else f"{stem}-{used[stem]}.png"
        )
        image = images.read(name)
        drawer.add_datasample(name, image, sample, draw_gt=False, out_file=str(out), **options)
        print(out)
    return 0


def build(cfg: Config, args: argparse.Namespace) -> tuple[nn.Module, Compose, Visualizer]:
    """The model with the checkpoint's weights, its test pipeline without truth, and who draws."""
    import torch
    from mmengine.dataset import Compose
    from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope

    from sparc_pretrain.engine import checkpoint
    from transfer.run import recipe

    recipe.single_process_norms(cfg.model)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    try:
        model.load_state_dict(checkpoint.weights(args.checkpoint))
    except RuntimeError as error:
        raise ValueError(f"{args.checkpoint} does not fit {args.config}: {error}") from None
    dataset = cfg.test_dataloader.dataset
    drawer = VISUALIZERS.build({"name": args.out_dir, **cfg.visualizer, "vis_backends": None})
    scope = cfg.get("default_scope", "mmdet")
    kind = DATASETS.get(dataset.type if "." in dataset.type else f"{scope}.{dataset.type}")
    drawer.dataset_meta = {**kind.METAINFO, **(dataset.get("metainfo") or {})}
    return model, Compose(of_a_photo(dataset.pipeline)), drawer


def of_a_photo(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a test pipeline without those that load truth, of whatever kind.

    Raises:
        ValueError: it loads proposals, which a photo does not bring.
    """
    if any("LoadProposals" in step["type"] for step in pipeline):
        raise ValueError("this model reads proposals from a file, which a photo does not bring")
    return [s for s in pipeline if not ("Load" in s["type"] and "Annotations" in s["type"])]


if __name__ == "__main__":
    cli.guard(main)
