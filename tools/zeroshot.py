"""Evaluate a run folder without training.

python tools/zeroshot.py work_dirs/sparc/run retrieval --images DIR --captions COCO.json
python tools/zeroshot.py RUN faithfulness --images DIR --captions COCO.json
python tools/zeroshot.py RUN classification --images DIR [--labels TABLE.csv] --templates openai
python tools/zeroshot.py RUN segmentation --images DIR --annotations DIR --classes classes.txt
python tools/zeroshot.py RUN grounding --images DIR --phrases entities.json
python tools/zeroshot.py RUN regions --images DIR --annotations lvis_v1_val.json
python tools/zeroshot.py RUN terms --shards boxes-val-*.tar

Each task prints its numbers and writes them with their protocol to metrics.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sparc_pretrain.command import cli, flags
from sparc_pretrain.zeroshot.tasks import TASKS

if TYPE_CHECKING:
    import numpy as np

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


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    parser.add_argument("run", help="run folder, the work dir that holds one, or s3://...")
    sub = parser.add_subparsers(dest="task", required=True)
    for name, task in TASKS.items():
        found = sub.add_parser(name, help=task.words)
        if task.pictures:
            found.add_argument("--images", required=True, help="folder of the images")
        where = "zeroshot" if name == "retrieval" else f"zeroshot/{name}"
        found.add_argument("--out", help=f"metrics file (default: WORK_DIR/{where}/metrics.json)")
        task.flags(found)
    return parser.parse_args(argv)


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


def boxes_of(data: tuple, annotations: str) -> tuple[dict, str]:
    """The truth of the images that are shown, checked before any model runs, and its style."""
    from transfer.detection.metrics import check_ground_truth  # ten seconds of imports

    regions, _, file = data
    style = "lvis" if regions.groups else "coco"
    truth = file.of_images([image.image_id for image in regions.images])
    check_ground_truth(truth, "bbox", style, annotations)
    return truth, style


def precision(found: Outcome, truth: dict, style: str) -> None:
    """Average precision of the true boxes, by the detection metrics, into `found`."""
    from transfer.detection.metrics import evaluate

    for results, prefix in (("results", ""), ("chance_results", "chance_")):
        values = evaluate(truth, found.extra.pop(results), "bbox", style)
        for name in (n for n in ("AP", "APr", "APc", "APf") if n in values):
            found.metrics[prefix + name] = values[name]
    found.protocol["AP"] = f"{style} box AP of the true boxes with every class; -1: none annotated"
    found.protocol["chance_AP"] = "random class scores, one draw"


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """[H,W,3] uint8 as a PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def main(argv: list[str] | None = None) -> int:
    """Run the task, write its record and what lies beside it, print the numbers."""
    args = parse(argv)
    import torch

    from sparc_pretrain import metrics_file, run_folder
    from sparc_pretrain.atomic_file import atomic_write
    from sparc_pretrain.data.address import is_remote
    from sparc_pretrain.zeroshot import encode

    run, task = run_folder.open_run(args.run), TASKS[args.task]
    started = time.perf_counter()
    if args.task == "segmentation" and args.classes is None:
        args.class_names = published(args.convention)
    data = task.read(args)
    boxes = boxes_of(data, args.annotations) if args.task == "regions" else None
    model, objective = encode.load(run.path)
    if torch.cuda.is_available():
        model, objective = model.cuda(), objective.cuda()
    found = task.evaluate(model, objective, data, args)
    if boxes is not None:
        precision(found, *boxes)
    above = run.path.parent  # of an address, in the cache
    folder = Path("work_dirs", above.name) if is_remote(args.run) else above
    folder = folder / "zeroshot"
    folder = folder if args.task == "retrieval" else folder / args.task
    out = Path(args.out) if args.out else folder / "metrics.json"
    metrics_file.write_metrics(
        out,
        task.record,
        found.metrics,
        found.protocol,
        backbone=metrics_file.ancestry(run),
        data=str(getattr(args, task.source) or args.images),
        seconds=round(time.perf_counter() - started, 1),
        declared=found.declared,
    )
    for name, content in found.extra.items():
        text = json.dumps(content, indent=1).encode()
        beside = out.with_name(f"{name}.json")
        if beside == out:  # --out retrieval.json is the record, which it would overwrite
            beside = out.with_name(f"{name}_examples.json")
        atomic_write(beside, lambda file, text=text: file.write(text))
    for name, pixels in found.pictures.items():
        write_picture(out.parent / "pictures" / f"{name}.png", pixels)
    width = max(16, *map(len, found.metrics))
    for name, value in found.metrics.items():
        digits = 1 if "median_rank" in name else 4
        print(f"{name:>{width}}  {value:.{digits}f}")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    cli.guard(main)
