"""Captions of a set -> BLEU, ROUGE-L and CIDEr, inside an MMEngine Runner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric

from sparc_pretrain.registry import METRICS
from transfer.captioning.metrics import score


@METRICS.register_module()
class CaptionMetric(BaseMetric):
    """`caption/BLEU-1` .. `caption/BLEU-4`, `caption/ROUGE-L`, `caption/CIDEr` of all images.

    Args:
        outfile_prefix: where the captions are kept, as a list of `{image, caption, references,
            scores}`: `PREFIX.captions.json`, or `PREFIXcaptions.json` when it ends in a slash.
            None = nowhere.

    Raises ValueError as `metrics.score` does, e.g. for an image without references.
    """

    default_prefix = "caption"

    def __init__(
        self,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.outfile_prefix = outfile_prefix

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep `image`, `prediction` and `references` of each sample."""
        for sample in data_samples:
            self.results.append(
                {
                    "image": sample["image"],
                    "caption": sample["prediction"],
                    "references": list(sample["references"]),
                }
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """The corpus scores; writes the captions beside."""
        totals, items = score(
            [row["caption"] for row in results],
            [row["references"] for row in results],
            per_item=True,
        )
        if self.outfile_prefix is not None:
            joint = "" if self.outfile_prefix.endswith("/") else "."
            path = Path(f"{self.outfile_prefix}{joint}captions.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {**row, "scores": {name: round(values[i], 4) for name, values in items.items()}}
                for i, row in enumerate(results)
            ]
            path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        return totals
