"""Statements about two images (NLVR2, Suhr et al., arXiv 1811.00491)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.structures import BaseDataElement

from sparc_pretrain.metric import Metric
from sparc_pretrain.registry import DATASETS, METRICS
from transfer.captioning.data.dataset import ImageItems

LABELS = {"True": True, "False": False}


def read_statements(file: str | Path) -> list[tuple[tuple[str, str], str, bool]]:
    """((left, right) image files, sentence, whether it is true) of a JSONL file. The images are in
    `images`, or, as in NLVR2's own files, IDENTIFIER-img0.png and -img1.png, without the last
    number of the identifier.

    Raises FileNotFoundError; ValueError naming the line of another format.
    """
    found = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            stem = str(row["identifier"]).rpartition("-")[0]
            sides = row.get("images") or [f"{stem}-img0.png", f"{stem}-img1.png"]
            left, right = map(str, sides)
            found.append(((left, right), row["sentence"].strip(), LABELS[str(row["label"])]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file}, line {number}: not a statement of NLVR2: {error!r}"
            ) from None
    if not found:
        raise ValueError(f"{file} holds no statement")
    return found


@DATASETS.register_module()
class NlvrDataset(ImageItems):
    """Statements with two images: `inputs` [2,3,S,S] uint8, and a `data_samples` with `image`
    (left), `prompt` (the sentence) and `label`. Args: see `CaptionDataset`.
    """

    def __init__(
        self, ann_file: str, data_prefix: Mapping[str, str], data_root: str = "", **options: Any
    ) -> None:
        path = Path(data_root)
        rows = read_statements(path / ann_file)
        named = (str(path / ann_file), path / data_prefix["img"])
        left, right = ([(sides[k], [text]) for sides, text, _ in rows] for k in range(2))
        super().__init__(*named, left, **options)
        self.right = ImageItems(*named, right, **options)
        self.labels = [label for _, _, label in rows]

    @property
    def lengths(self) -> list[int]:
        """Words of each statement."""
        return [len(text.split()) for _, (text,) in self.items]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class; in training the next statement whose images are both good."""
        left, at = self._good_image(index)
        right, other = self.right._good_image(at)
        while other != at:
            left, at = self._good_image(other)
            right, other = self.right._good_image(at)
        name, (sentence,) = self.items[at]
        meta = {"image": name, "prompt": sentence, "label": self.labels[at]}
        sample = BaseDataElement(metainfo=meta)
        return {"inputs": torch.stack([left, right]), "data_samples": sample}


@METRICS.register_module()
class NlvrMetric(BaseMetric):
    """`nlvr/accuracy`, and `nlvr/consistency`: of the sentences the share that is judged right for
    all of their images.
    """

    default_prefix = "nlvr"
    declared = (
        Metric("accuracy", headline=True, title="NLVR accuracy", words="chance .5"),
        Metric("consistency", title="NLVR consistency", words="sentences right for all images"),
    )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what is compared."""
        self.results += [
            (sample["prompt"], sample["prediction"] == str(sample["label"]))
            for sample in data_samples
        ]

    def compute_metrics(self, results: list[tuple[str, bool]]) -> dict[str, float]:
        """Means over statements and sentences."""
        whole: dict[str, bool] = defaultdict(lambda: True)
        for sentence, right in results:
            whole[sentence] &= right
        return {
            "accuracy": sum(right for _, right in results) / len(results),
            "consistency": sum(whole.values()) / len(whole),
        }
