"""Evaluate a run folder without training.

python tools/zeroshot.py work_dirs/sparc/run retrieval --images DIR --captions COCO.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from sparc_pretrain import run_folder
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.engine import door, records
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.retrieval import recall

EXAMPLES = 6  # queries shown in the report
SHOWN = 5  # answers per query


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder, or the work dir that holds one")
    tasks = parser.add_subparsers(dest="task", required=True)
    retrieval = tasks.add_parser("retrieval", help="captions to images and back")
    retrieval.add_argument("--images", required=True, help="folder of the images")
    retrieval.add_argument("--captions", required=True, help="COCO or Karpathy JSON, CSV ...")
    retrieval.add_argument("--split", help="of a Karpathy file")
    retrieval.add_argument("--resize", choices=("crop", "squash"), default="crop")
    retrieval.add_argument("--batch-size", type=int, default=64)
    retrieval.add_argument("--out", help="metrics file (default: WORK_DIR/zeroshot/metrics.json)")
    return parser.parse_args(argv)


def retrieval(args: argparse.Namespace) -> int:
    """Recall at 1, 5, 10 and median rank, both ways."""
    run = run_folder.open_run(args.run)
    data = encode.CaptionedImages.read(args.images, args.captions, args.split)
    model, objective = encode.load(run.path)
    if torch.cuda.is_available():
        model, objective = model.cuda(), objective.cuda()
    started = time.perf_counter()
    scores = encode.scores(model, objective, data, args.resize, args.batch_size)
    metrics = recall(scores, torch.tensor(data.image_of_text))
    out = Path(args.out) if args.out else run.path.parent / "zeroshot" / "metrics.json"
    records.write_metrics(
        out,
        "retrieval",
        metrics,
        protocol={
            "images": len(data.files),
            "captions": len(data.captions),
            "chance_R@5": 5 / len(data.files),
            "resize": args.resize,
            "img_size": model.vision.img_size,
            "read_by": f"{type(objective).__name__}.scores",
            "ties": "count against the model",
        },
        backbone=records.ancestry(run),
        data=str(args.captions),
        seconds=round(time.perf_counter() - started, 1),
    )
    text = json.dumps(examples(scores, data), indent=1).encode()
    atomic_write(out.with_name("retrieval.json"), lambda file: file.write(text))
    for name, value in metrics.items():
        print(f"{name:>16}  {value:.4f}" if "R@" in name else f"{name:>16}  {value:.1f}")
    print(f"written to {out}")
    return 0


def examples(scores: torch.Tensor, data: encode.CaptionedImages) -> dict:
    """A few text queries with the images that answer them best, for the report."""
    step = max(1, len(data.captions) // EXAMPLES)
    picked = [
        {
            "query": data.captions[t],
            "answers": scores[:, t].topk(min(SHOWN, len(data.files))).indices.tolist(),
            "correct": data.image_of_text[t],
        }
        for t in list(range(0, len(data.captions), step))[:EXAMPLES]
    ]
    return {
        "images": [str(file) for file in data.files],
        "captions": data.captions,
        "image_of_text": data.image_of_text,
        "examples": picked,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the task."""
    args = parse(argv)
    return {"retrieval": retrieval}[args.task](args)


if __name__ == "__main__":
    door.guard(main)
