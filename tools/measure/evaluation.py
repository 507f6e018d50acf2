"""Time of our evaluation against pycocotools and lvis-api, on the same files, with the same AP."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ratios import interleaved, table

from transfer.detection.metrics import evaluate


def invented(style: str, images: int, per_image: int, seed: int = 0) -> tuple[dict, list[dict]]:
    """Annotations (7 boxes an image) and `per_image` detections, half of them near a true box: of
    COCO's 80 categories, or LVIS's 1,203 with what a federated file says of them.
    """
    rng = np.random.default_rng(seed)
    kinds = 80 if style == "coco" else 1203
    truth: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    rows = []
    for i in range(1, kinds + 1):
        frequency = "rcf"[min(i % 4, 2)]
        truth["categories"].append(dict(id=i, name=f"kind {i}", frequency=frequency))
    for image in range(1, images + 1):
        corner, size = rng.uniform(0, 400, (7, 2)), rng.uniform(8, 240, (7, 2))
        labels = rng.integers(1, kinds + 1, 7)
        others = sorted(set(rng.integers(1, kinds + 1, 12).tolist()) - set(labels.tolist()))
        federated = dict(neg_category_ids=others, not_exhaustive_category_ids=[])
        truth["images"].append(dict(id=image, height=640, width=640, **federated))
        for box, label in zip(np.hstack([corner, size]).tolist(), labels.tolist(), strict=True):
            place = dict(id=len(truth["annotations"]) + 1, image_id=image, iscrowd=0)
            about = dict(category_id=label, bbox=box, area=box[2] * box[3])
            truth["annotations"].append({**place, **about})
        near = rng.integers(0, 7, per_image)
        boxes = np.hstack([corner, size])[near] * rng.uniform(0.8, 1.25, (per_image, 4))
        found = np.where(
            rng.random(per_image) < 0.5, labels[near], rng.integers(1, kinds + 1, per_image)
        )
        for box, label, score in zip(
            boxes.tolist(), found.tolist(), rng.random(per_image).tolist(), strict=True
        ):
            rows.append(dict(image_id=image, category_id=label, bbox=box, score=score))
    return truth, rows


def by_us(truth: Path, rows: Path, style: str) -> float:
    """AP of boxes."""
    return evaluate(truth, rows, "bbox", style)["AP"]


def by_pycocotools(truth: Path, rows: Path) -> float:
    """AP of boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    index = COCO(str(truth))
    evaluation = COCOeval(index, index.loadRes(str(rows)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def by_lvis_api(truth: Path, rows: Path) -> float:
    """AP of boxes."""
    np.float = float  # lvis 0.5.3 says so; this process ends with the measurement
    from lvis import LVIS, LVISEval, LVISResults

    index = LVIS(str(truth))
    evaluation = LVISEval(index, LVISResults(index, str(rows)), "bbox")
    evaluation.run()
    return float(evaluation.results["AP"])


def timed(work: Callable[[], float]) -> dict[str, float]:
    """`work` in a process of its own: its value and what it took. For commands: forked from a
    process that runs threads, the child could wait for ever.
    """
    context = multiprocessing.get_context("fork")
    ours, other = context.Pipe()

    def child() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            start = time.perf_counter(), time.process_time()
            value = work()
            end = time.perf_counter(), time.process_time()
        other.send({"wall": end[0] - start[0], "cpu": end[1] - start[1], "value": value})

    process = context.Process(target=child)
    process.start()
    other.close()
    try:
        return ours.recv()
    except EOFError:
        raise ValueError("an evaluation failed, see above") from None
    finally:
        process.join()


def evaluation(args: Any) -> str:
    """`transfer.detection.metrics.evaluate` (A) against pycocotools and lvis-api (B)."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # hotcoco would take every core there is
    return "\n\n".join(
        [
            against("coco", "pycocotools", by_pycocotools, args.images, args.detections, args),
            against("lvis", "lvis", by_lvis_api, args.images, 3 * args.detections, args),
        ]
    )


def against(
    style: str,
    package: str,
    oracle: Callable[[Path, Path], float],
    images: int,
    per_image: int,
    args: Any,
) -> str:
    """One style's paragraph and table.

    Raises ValueError when the AP of the two differ by more than 1e-9.
    """
    if find_spec(package) is None:
        return f"**{style}**: not run, {package} is not installed (pip install {package})."
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "truth.json", Path(folder) / "rows.json"]
        for file, content in zip(files, invented(style, images, per_image), strict=True):
            file.write_text(json.dumps(content))
        ours = functools.partial(by_us, *files, style)
        works = {"A": ours, "B": functools.partial(oracle, *files), "A again": ours}
        runs = interleaved(list(works), args.repeats, lambda name, _: timed(works[name]))
    values = [run["value"] for own in runs.values() for run in own]
    if max(values) - min(values) > 1e-9:
        raise ValueError(f"{style}: the AP differ, {sorted(set(values))}")
    told = (
        f"**{style}**: {images:,} images, {images * per_image:,} invented detections; A: ours"
        f" (hotcoco), B: {package}; both read the same two files, on one thread; {args.repeats}"
        f" repeats in turn. Both say AP {values[0]:.6f}."
    )
    rows = {"clock": "wall", "processor": "cpu"}
    return f"{told}\n\n{table(runs, rows, ('B', 'A'))}"
