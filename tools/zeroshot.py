"""Evaluate a run folder without training.

python tools/zeroshot.py work_dirs/sparc/run retrieval --images DIR --captions COCO.json
python tools/zeroshot.py RUN faithfulness --images DIR --captions COCO.json
python tools/zeroshot.py RUN classification --images DIR [--labels TABLE.csv] --templates openai
python tools/zeroshot.py RUN segmentation --images DIR --annotations DIR --classes classes.txt
python tools/zeroshot.py RUN grounding --images DIR --phrases entities.json
python tools/zeroshot.py RUN regions --images DIR --annotations lvis_v1_val.json

Each task prints its numbers and writes them with their protocol to metrics.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sparc_pretrain.command import cli, flags
from sparc_pretrain.data.sets.conventions import CONVENTIONS
from sparc_pretrain.zeroshot import choices

if TYPE_CHECKING:
    from torch import nn

    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.zeroshot.outcome import Outcome

# The classes that mmseg's data sets have, where --classes is not given.
MMSEG = {
    "voc20": "PascalVOCDataset",
    "voc21": "PascalVOCDataset",
    "context59": "PascalContextDataset59",
    "context60": "PascalContextDataset",
    "ade20k": "ADE20KDataset",
    "coco-stuff": "COCOStuffDataset",
}
Evaluated: TypeAlias = "tuple[Outcome, str]"
# called once the data are found to be there
Load: TypeAlias = "Callable[[], tuple[DualEncoder, nn.Module]]"

HEAD = "of the patches (default: global = g_v after h_v, local = g_v where h_v was not trained)"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    parser.add_argument("run", help="run folder, or the work dir that holds one")
    tasks = parser.add_subparsers(dest="task", required=True)

    def task(name: str, words: str) -> argparse.ArgumentParser:
        found = tasks.add_parser(name, help=words)
        found.add_argument("--images", required=True, help="folder of the images")
        where = "zeroshot" if name == "retrieval" else f"zeroshot/{name}"
        found.add_argument("--out", help=f"metrics file (default: WORK_DIR/{where}/metrics.json)")
        return found

    def whole(found: argparse.ArgumentParser) -> None:
        found.add_argument("--resize", choices=("crop", "squash"), default="crop")
        found.add_argument("--batch-size", type=int, default=64)

    def prompted(found: argparse.ArgumentParser) -> None:
        found.add_argument(
            "--templates",
            default="label",
            help="'label' = the name alone, 'openai' = CLIP's 80, or a file, one template per line",
        )
        found.add_argument(
            "--suffix", action="append", default=[], help="'[prefix]{label}, SUFFIX'; repeatable"
        )

    for name, words in (
        ("retrieval", "captions to images and back"),
        ("faithfulness", "K-Precision of the caption retrieved for each image"),
    ):
        found = task(name, words)
        found.add_argument("--captions", required=True, help="COCO or Karpathy JSON, CSV ...")
        found.add_argument("--split", help="of a Karpathy file")
        found.add_argument(
            "--protocol",
            choices=tuple(choices.PROTOCOLS),
            help="of a Karpathy file's test split; coco-1k = mean over five folds of 1,000",
        )
        whole(found)

    found = task("classification", "class names to images")
    found.add_argument("--labels", help="CSV (image, label); without it, a folder per class")
    found.add_argument("--classes", help="class names: text or JSON; default: the folders' names")
    found.add_argument("--ensemble", choices=choices.ENSEMBLES, default="auto")
    prompted(found)
    whole(found)

    found = task("segmentation", "class names to pixels")
    found.add_argument("--annotations", required=True, help="folder of label maps (PNG)")
    found.add_argument("--split", help="list of the names to take (VOC's val.txt; default: all)")
    found.add_argument("--classes", help="class names; needed unless --convention names a data set")
    found.add_argument("--convention", choices=tuple(CONVENTIONS), default="ade")
    found.add_argument("--background", choices=choices.BACKGROUNDS, help="of voc21 and context60")
    found.add_argument("--threshold", type=float, default=0.0, help="cosine, of the background")
    found.add_argument("--head", choices=("global", "local"), help=HEAD)
    found.add_argument("--view", choices=("slide", "squash", "whole"), default="slide")
    found.add_argument("--size", type=int, default=0, help="shorter side (default: of training)")
    found.add_argument("--stride", type=int, default=0, help="of windows (default: half a window)")
    found.add_argument("--upsample", choices=tuple(choices.UPSAMPLING), default="labels")
    prompted(found)

    found = task("grounding", "phrases to boxes, words to patches")
    found.add_argument("--phrases", required=True, help="Flickr30k-Entities-like JSON")
    found.add_argument("--size", type=int, default=0, help="side in pixels (default: of training)")
    found.add_argument("--limit", type=int, help="only that many images")

    found = task("regions", "class names to the boxes of COCO or LVIS")
    found.add_argument("--annotations", required=True, help="COCO or LVIS JSON")
    found.add_argument("--head", choices=("global", "local"), help=HEAD)
    found.add_argument("--size", type=int, default=0, help="side in pixels (default: of training)")
    found.add_argument("--limit", type=int, help="only that many images")
    prompted(found)
    return parser.parse_args(argv)


def run_retrieval(args: argparse.Namespace, load: Load) -> Evaluated:
    """Recall both ways."""
    from sparc_pretrain.zeroshot import retrieval

    data, folds = retrieval.read_pairs(args.images, args.captions, args.split, args.protocol)
    found = retrieval.evaluate(*load(), data, folds, args.resize, args.batch_size)
    found.protocol["karpathy"] = args.protocol
    return found, args.captions


def run_faithfulness(args: argparse.Namespace, load: Load) -> Evaluated:
    """K-Precision."""
    from sparc_pretrain.zeroshot import faithfulness, retrieval

    data, _ = retrieval.read_pairs(args.images, args.captions, args.split, args.protocol)
    found = faithfulness.evaluate(*load(), data, args.resize, args.batch_size)
    return found, args.captions


def run_classification(args: argparse.Namespace, load: Load) -> Evaluated:
    """Top-1, top-5, mean per class."""
    from sparc_pretrain.zeroshot import classification, prompts

    data = classification.read_labelled(args.images, args.labels, args.classes)
    templates = prompts.templates(args.templates, args.suffix)
    found = classification.evaluate(
        *load(), data, templates, args.ensemble, args.resize, args.batch_size
    )
    return found, args.labels or args.images


def run_segmentation(args: argparse.Namespace, load: Load) -> Evaluated:
    """mIoU, the paper's way and mmseg's."""
    from sparc_pretrain.data.sets import label_maps
    from sparc_pretrain.zeroshot import dense, prompts, segmentation
    from sparc_pretrain.zeroshot.patch_reader import PatchReader

    view = dense.View(args.view, args.size, args.stride, args.upsample)
    names = published(args.convention) if args.classes is None else None
    names = prompts.read_classes(args.classes) if names is None else names
    data = label_maps.read_maps(args.images, args.annotations, names, args.convention, args.split)
    background = args.background or ("class" if data.convention.background else "none")
    templates = prompts.templates(args.templates, args.suffix)
    model, objective = load()
    reader = PatchReader.of(objective, args.head)
    found = segmentation.evaluate(model, data, templates, view, reader, background, args.threshold)
    found.protocol["convention"] = args.convention
    found.protocol["split"] = args.split or "all maps of the folder"
    found.protocol["class_names"] = args.classes or f"mmseg {MMSEG[args.convention]}"
    return found, args.annotations


def published(convention: str) -> list[str]:
    """mmseg's class names of a data set. Raises ValueError for a convention that is none."""
    if convention not in MMSEG:
        raise ValueError(f"--convention {convention} needs the class names: --classes FILE")
    import transfer  # isort: skip  # noqa: F401  mends what mmseg needs
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    names = list(DATASETS.get(MMSEG[convention]).METAINFO["classes"])
    return names[1:] if convention == "voc20" else names


def run_grounding(args: argparse.Namespace, load: Load) -> Evaluated:
    """Pointing, boxes, words."""
    from sparc_pretrain.data.sets import phrases
    from sparc_pretrain.zeroshot import grounding_run

    data = phrases.read_phrases(args.images, args.phrases, args.limit)
    model, objective = load()
    return grounding_run.evaluate(model, data, args.size, objective), args.phrases


def run_regions(args: argparse.Namespace, load: Load) -> Evaluated:
    """Top-1 of ground-truth boxes, and average precision by the detection metrics."""
    from sparc_pretrain.data.coco_file import read_coco
    from sparc_pretrain.zeroshot import prompts, regions
    from sparc_pretrain.zeroshot.patch_reader import PatchReader
    from transfer.detection.metrics import check_ground_truth, evaluate  # ten seconds of imports

    file = read_coco(args.annotations)
    data = regions.read_regions(args.images, file, args.limit)
    style = "lvis" if data.groups else "coco"
    truth = file.of_images([image.image_id for image in data.images])
    check_ground_truth(truth, "bbox", style, args.annotations)
    templates = prompts.templates(args.templates, args.suffix)
    model, objective = load()
    reader = PatchReader.of(objective, args.head)
    found = regions.evaluate(model, data, templates, args.size, reader)
    found.protocol["boxes_of_unlisted_images"] = len(file.unlisted)
    for results, prefix in (("results", ""), ("chance_results", "chance_")):
        precision = evaluate(truth, found.extra.pop(results), "bbox", style)
        for name in (n for n in ("AP", "APr", "APc", "APf") if n in precision):
            found.metrics[prefix + name] = precision[name]
    found.protocol["AP"] = f"{style} box AP of the true boxes with every class; -1: none annotated"
    found.protocol["chance_AP"] = "random class scores, one draw"
    return found, args.annotations


TASKS: dict[str, Callable[..., Evaluated]] = {
    "retrieval": run_retrieval,
    "faithfulness": run_faithfulness,
    "classification": run_classification,
    "segmentation": run_segmentation,
    "grounding": run_grounding,
    "regions": run_regions,
}


def main(argv: list[str] | None = None) -> int:
    """Run the task, write its record and what lies beside it, print the numbers."""
    args = parse(argv)
    import torch

    from sparc_pretrain import metrics_file, run_folder
    from sparc_pretrain.atomic_file import atomic_write
    from sparc_pretrain.zeroshot import encode

    run = run_folder.open_run(args.run)

    def load() -> tuple[DualEncoder, nn.Module]:
        model, objective = encode.load(run.path)
        cuda = torch.cuda.is_available()
        return (model.cuda(), objective.cuda()) if cuda else (model, objective)

    started = time.perf_counter()
    found, data = TASKS[args.task](args, load)
    folder = run.path.parent / "zeroshot"
    folder = folder if args.task == "retrieval" else folder / args.task
    out = Path(args.out) if args.out else folder / "metrics.json"
    metrics_file.write_metrics(
        out,
        # 'segmentation' is the fine-tuned one
        f"zeroshot_{args.task}" if args.task == "segmentation" else args.task,
        found.metrics,
        found.protocol,
        backbone=metrics_file.ancestry(run),
        data=str(data),
        seconds=round(time.perf_counter() - started, 1),
        declared=found.declared,
    )
    for name, content in found.extra.items():
        text = json.dumps(content, indent=1).encode()
        atomic_write(out.with_name(f"{name}.json"), lambda file, text=text: file.write(text))
    width = max(16, *map(len, found.metrics))
    for name, value in found.metrics.items():
        digits = 1 if "median_rank" in name else 4
        print(f"{name:>{width}}  {value:.{digits}f}")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    cli.guard(main)
