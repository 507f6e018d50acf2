"""What open-vocabulary training does to samples: several images on one canvas, and the choice of
the words to ask for (OWL-ViT, arXiv 2205.06230, app. A1.6, A1.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from transfer.detection.mmdet_bases import HorizontalBoxes

GREY = 114  # what mmdet's own mosaics put where there is no image


@TRANSFORMS.register_module()
class GridMosaic(BaseTransform):
    """One, 2 x 2 or 3 x 3 images on a square, each scaled to fit the upper left of its cell.

    Put it first in the pipeline of a `MultiImageMixDataset`.

    Args:
        size: side of the square in pixels. grids: images per row. probs: how often each is drawn.

    Raises:
        ValueError: probabilities that do not belong to the grids or do not sum to 1.
    """

    def __init__(
        self,
        size: int,
        grids: Sequence[int] = (1, 2, 3),
        probs: Sequence[float] = (0.4, 0.3, 0.3),
    ) -> None:
        if len(grids) != len(probs) or abs(sum(probs) - 1) > 1e-6 or min(grids) < 1:
            raise ValueError(f"grids {grids} need as many probabilities, of sum 1, not {probs}")
        self.size, self.grids, self.probs = size, tuple(grids), tuple(probs)

    def get_indexes(self, dataset: Sequence) -> list[int]:
        """Which other images join this one (called by MultiImageMixDataset)."""
        grid = np.random.choice(self.grids, p=self.probs)
        return np.random.randint(len(dataset), size=grid**2 - 1).tolist()

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """`img` [H,W,3], `gt_bboxes`, `gt_bboxes_labels`, `gt_ignore_flags`, `vocabulary` and
        `federated` of `results` and of each of its `mix_results` -> those of the canvas.
        """
        tiles = [results, *results.pop("mix_results", [])]
        grid = round(len(tiles) ** 0.5)
        if grid**2 != len(tiles):
            raise ValueError(f"{len(tiles)} images make no square")
        edges = np.linspace(0, self.size, grid + 1).round().astype(int)
        canvas = np.full((self.size, self.size, 3), GREY, dtype=results["img"].dtype)
        vocabulary = results["vocabulary"]
        for other in {id(t["vocabulary"]): t["vocabulary"] for t in tiles[1:]}.values():
            vocabulary = vocabulary.joined(other)
        boxes, labels, ignored, federated = [], [], [], []
        for i, tile in enumerate(tiles):
            top, left = edges[i // grid], edges[i % grid]
            bottom, right = edges[i // grid + 1], edges[i % grid + 1]
            image = tile["img"]
            height, width = image.shape[:2]
            factor = min((bottom - top) / height, (right - left) / width)
            high, wide = max(round(height * factor), 1), max(round(width * factor), 1)
            smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
            canvas[top : top + high, left : left + wide] = cv2.resize(
                image, (wide, high), interpolation=smooth
            )
            own = tile["gt_bboxes"].tensor.clone()
            own[:, 0::2] = own[:, 0::2] * (wide / width) + left
            own[:, 1::2] = own[:, 1::2] * (high / height) + top
            boxes.append(own)
            names = tile["vocabulary"].names
            labels += [vocabulary.index[names[k]] for k in tile["gt_bboxes_labels"]]
            ignored.append(tile["gt_ignore_flags"])
            (known,) = tile["federated"]
            federated.append({**known, "region": (left, top, left + wide, top + high)})
        results.update(
            img=canvas,
            img_shape=canvas.shape[:2],
            gt_bboxes=HorizontalBoxes(np.concatenate([b.numpy() for b in boxes])),
            gt_bboxes_labels=np.array(labels, dtype=np.int64),
            gt_ignore_flags=np.concatenate(ignored),
            vocabulary=vocabulary,
            federated=federated,
        )
        results.pop("scale_factor", None)  # of one tile only
        return results


@TRANSFORMS.register_module()
class FederatedQueries(BaseTransform):
    """Chooses the words an image is asked for: all that are in it, those known not to be, and
    random others until there are `negatives` of both kinds (pseudo-negatives, taken as not there).

    Adds `query_names` [Q], to which `gt_bboxes_labels` now point, `regions` [R,4] and `known`
    [R,Q]: True where an unmarked place of the region counts as a place without the class. Words
    that nobody looked for in a region stay unknown there.

    Args:
        negatives: how many are wanted at least. max_queries: how many words at most, if not more
            are in the image.
    """

    def __init__(self, negatives: int = 50, max_queries: int = 100) -> None:
        self.negatives, self.max_queries = negatives, max_queries

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """See the class."""
        regions, vocabulary = results["federated"], results["vocabulary"]
        positive = list(dict.fromkeys(name for r in regions for name in r["positive"]))
        denied = dict.fromkeys(name for r in regions for name in r["negative"])
        denied = [name for name in denied if name not in set(positive)]
        room = max(self.max_queries - len(positive), 0)
        if len(denied) > room:
            denied = [denied[i] for i in np.random.permutation(len(denied))[:room]]
        wanted = min(self.negatives, room) - len(denied)
        kinds = ("positive", "negative", "partial")
        seen = {name for r in regions for kind in kinds for name in r[kind]}
        pseudo = vocabulary.draw(wanted, seen) if wanted > 0 else []
        names = [*positive, *denied, *pseudo]
        if not names:  # an image of which nothing is known: it still takes part in the step
            names = list(vocabulary.names[:1])
        known = []
        for region in regions:
            complete = set(region["positive"]) - set(region["partial"])
            searched = complete.union(region["negative"], pseudo)
            known.append([name in searched for name in names])
        height, width = results["img"].shape[:2]
        place = {name: i for i, name in enumerate(names)}
        results.update(
            query_names=tuple(names),
            regions=[r["region"] or (0, 0, width, height) for r in regions],
            known=np.array(known, dtype=bool).reshape(len(regions), len(names)),
            gt_bboxes_labels=np.array(
                [place[vocabulary.names[k]] for k in results["gt_bboxes_labels"]], dtype=np.int64
            ),
        )
        return results
