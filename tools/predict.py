"""Draw a detector's or segmentor's predictions on photographs, or write them to files.

    python tools/predict.py work_dirs/det/det.py work_dirs/det/iter_280.pth photo.jpg --out-dir out
    python tools/predict.py CONFIG CHECKPOINT FOLDER 'more/*.jpg' --json --no-pictures

Of a folder everything below it is taken, so that one of a video's frames works as any other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.dataset import Compose
    from mmengine.visualization import Visualizer
    from torch import nn

    from transfer.run.photos import Photo
    from transfer.run.prediction_files import CocoResults


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    flags.config(parser, "config file (or its copy in the work dir)")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("images", nargs="+", help="photographs, folders, patterns in quotes")
    flags.backbone(parser, "run folder the checkpoint was made from")
    parser.add_argument("--out-dir", default="predictions")
    parser.add_argument("--words", help="what to look for, comma-separated (open vocabulary only)")
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below are not drawn")
    parser.add_argument("--batch-size", type=int, default=1, help="photographs at a time")
    parser.add_argument(
        "--json",
        action="store_true",
        help="COCO results (boxes, masks as RLE, scores) as OUT_DIR/predictions.json",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="with --json: a COCO file whose ids of images and categories are used",
    )
    parser.add_argument(
        "--maps", action="store_true", help="a segmentor's label maps as OUT_DIR/maps/NAME.png"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    flags.cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write OUT_DIR/NAME.png for every photograph, and the files that are asked for; 1 if some
    photographs of several could not be read.
    """
    args = parse(argv)
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f"no file {args.checkpoint}")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: at least 1")
    from transfer.run import recipe  # first: it mends mmcv before mmcv is imported
    from transfer.run.build import naming_parts
    from transfer.run.photos import photos  # isort: split

    from tqdm import tqdm

    from transfer.run.prediction_files import CocoResults

    taken = photos(args.images)
    cfg = recipe.load(args.config, args.cfg_options, args.out_dir, args.backbone)
    if cfg.get("task") == "captioning":
        raise ValueError(
            "a captioner writes text, not pictures: see captions.json of tools/test.py"
        )
    if args.words and cfg.model.get("type") != "sparc.OpenVocabularyDetector":
        raise ValueError("--words is for open-vocabulary detectors; this model has fixed classes")
    with naming_parts(cfg):
        model, pipeline, drawer = build(cfg, args)
    # open-vocabulary models look for what they are asked for: other words, or the set's classes
    words = [word.strip() for word in (args.words or "").split(",") if word.strip()]
    words = words or list(drawer.dataset_meta.get("classes") or ())
    results = CocoResults(args.out_dir, words, args.annotations) if args.json else None
    unread: list[str] = []
    bar = tqdm(total=len(taken), unit="photo", disable=None)  # None: where nobody watches
    for start in range(0, len(taken), args.batch_size):
        part = taken[start : start + args.batch_size]
        for photo, sample in predicted(model, pipeline, part, words, unread, len(taken) == 1):
            keep(photo, sample, drawer, results, args, cfg.get("default_scope") == "mmseg")
        bar.update(len(part))
    bar.close()
    if results is not None:
        results.close()
        print(f"{args.out_dir}: {results.count} detections on {len(results.images)} photographs")
    for line in unread:
        print(f"error: {line}", file=sys.stderr)
    return int(bool(unread))


def predicted(
    model: nn.Module,
    pipeline: Compose,
    part: list[Photo],
    words: list[str],
    unread: list[str],
    alone: bool,
) -> Iterator[tuple[Photo, Any]]:
    """The photographs of a batch with what the model says of them; lines on those that cannot be
    read go to `unread`.

    Raises:
        ValueError: the one photograph that there is (`alone`) cannot be read.
    """
    import torch
    from mmengine.dataset import pseudo_collate

    rows, good = [], []
    for photo in part:
        asked = {"img_id": 0, "seg_fields": [], "text": words, "img_path": str(photo.path)}
        try:
            rows.append(pipeline(asked))
        except ValueError as error:
            if alone:
                raise
            unread.append(cli.one_line(error))
            continue
        good.append(photo)
    if rows:
        with torch.inference_mode():
            yield from zip(good, model.test_step(pseudo_collate(rows)), strict=True)


def keep(
    photo: Photo,
    sample: Any,
    drawer: Visualizer,
    results: CocoResults | None,
    args: argparse.Namespace,
    segments: bool,
) -> None:
    """The picture, the rows and the label map of one photograph."""
    from transfer.mm import images
    from transfer.run.prediction_files import label_map

    out = Path(args.out_dir)
    if results is not None:
        results.add(photo.path, sample)
    if args.maps:
        label_map(sample, out / "maps" / f"{photo.name}.png")
    if not args.no_pictures:
        file = out / f"{photo.name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {} if segments else {"pred_score_thr": args.score_thr}
        drawer.add_datasample(
            photo.name,
            images.read(photo.path),
            sample,
            draw_gt=False,
            out_file=str(file),
            **options,
        )


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
