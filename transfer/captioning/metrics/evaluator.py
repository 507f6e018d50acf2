"""Captions of a set -> scores, inside an MMEngine Runner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from sparc_pretrain.registry import METRICS
from transfer.captioning.metrics import (
    domains,
    hallucination,
    intervals,
    java_metrics,
    scene_facts,
    score,
)
from transfer.captioning.metrics.declared import CAPTIONS
from transfer.captioning.metrics.ptb import PTBTokenizer


@METRICS.register_module()
class CaptionMetric(BaseMetric):
    """`caption/BLEU-1` .. `caption/BLEU-4`, `caption/ROUGE-L`, `caption/CIDEr` of all images, and
    what is asked for beside; by domain (`caption/CIDEr_in-domain`) where the caption file has them.

    Args:
        outfile_prefix: where the captions are kept, as a list of `{image, file, caption,
            references, scores}` and, of scenes, `false` (what is not so): `PREFIX.captions.json`,
            or `PREFIXcaptions.json` when it ends in a slash. None = in the work dir, by
            `RecordHook`; without it, nowhere.
        k_precision: also `K-Precision` over all words and `K-Precision-na` over nouns and
            adjectives (arXiv 2307.16877).
        resamples: of the bootstrap over images, for `NAME_low` and `NAME_high`, the ends of 95 %
            intervals (CIDEr's document frequencies stay those of the whole set); 0 = none.
        chair: `dict(instances=COCO_JSON, synonyms=FILE or None)`: `CHAIR-i`, `CHAIR-s`.
        scenes: True, on the built-in scenes: `scene-objects`, `scene-colours`, `scene-relations`,
            ..., what is true in each caption, see `scene_facts.score`; or another scenes.json than
            that of the caption file's data set.
        run: run folder for `CLIPScore-like`.
        java: names among METEOR and SPICE; one that this machine lacks is skipped, with the reason
            in the log.

    Raises ValueError as `metrics.score` does, e.g. for an image without references.
    """

    default_prefix = "caption"
    beside_record = True
    declared = CAPTIONS

    def __init__(
        self,
        outfile_prefix: str | None = None,
        k_precision: bool = False,
        resamples: int = 0,
        chair: Mapping[str, str | None] | None = None,
        scenes: bool | str = False,
        run: str | None = None,
        java: Sequence[str] = (),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.outfile_prefix = outfile_prefix
        self.k_precision, self.resamples, self.run = k_precision, resamples, run
        self.java = []
        for name in java:
            if reason := java_metrics.unavailable(name):
                print_log(f"{name} is skipped: {reason}", "current")
            else:
                self.java.append(name)
        self.scenes = scenes
        self.chair = None
        if chair is not None:
            objects, categories = hallucination.read_objects(chair["instances"])
            synonyms = {name: [] for name in categories}
            if chair.get("synonyms"):
                synonyms |= hallucination.read_synonyms(chair["synonyms"])
            self.chair = (objects, hallucination.ObjectWords(synonyms))

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
        self._write(results, {})  # hours of generation must not hang on a reference
        captions = [row["caption"] for row in results]
        references = [row["references"] for row in results]
        totals, items = score(captions, references, per_item=True)
        self._add(totals, items, results)
        self._write(results, items)
        return totals

    def _write(self, results: list[dict], items: dict[str, list[float]]) -> None:
        """``captions.json`` beside the record: every caption with its references and `items`, the
        scores of each.
        """
        if self.outfile_prefix is None:
            return
        joint = "" if self.outfile_prefix.endswith("/") else "."
        path = Path(f"{self.outfile_prefix}{joint}captions.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = (self.dataset_meta or {}).get("folder")
        rows = [
            {
                **row,
                **({"file": str(Path(folder) / row["image"])} if folder else {}),
                **({"scores": {k: round(v[i], 4) for k, v in items.items()}} if items else {}),
            }
            for i, row in enumerate(results)
        ]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")

    def _add(
        self, totals: dict[str, float], items: dict[str, list[float]], results: list[dict]
    ) -> None:
        """What is beside BLEU, ROUGE-L and CIDEr, into both."""
        captions = [row["caption"] for row in results]
        references = [row["references"] for row in results]

        def note(name: str, values: list[float], total: float | None = None) -> None:
            items[name] = values
            totals[name] = sum(values) / len(values) if total is None else total

        if self.k_precision:
            # late: it imports the towers, which the captions of a folder do without
            from sparc_pretrain.zeroshot.faithfulness import item_precisions

            note("K-Precision", item_precisions(captions, references))
            note("K-Precision-na", item_precisions(captions, references, content_words=True))
        if self.run is not None:
            from transfer.captioning.metrics.likeness import clip_scores

            folder = Path(self.dataset_meta["folder"])
            note(
                "CLIPScore-like",
                clip_scores(self.run, [folder / row["image"] for row in results], captions),
            )
        if self.java or self.resamples:
            tokenizer = PTBTokenizer()
            words = tokenizer.tokenize(captions)
            their_words = [tokenizer.tokenize(texts) for texts in references]
        found: dict[str, tuple[float, float] | None] = {}
        for name in self.java:
            asked = (name, words, their_words, self.resamples)
            total, values, found[name] = java_metrics.java_score(*asked)
            note(name, values, total)
        if self.resamples:
            found |= intervals.bleu_intervals(words, their_words, self.resamples)
            for name, values in items.items():
                ends = found.get(name) or intervals.mean_interval(values, self.resamples)
                totals[f"{name}_low"], totals[f"{name}_high"] = ends
        if self.scenes:
            file = self.scenes
            if file is True:  # FOLDER/scenes.json beside FOLDER/annotations/captions_val.json
                file = Path(self.dataset_meta["ann_file"]).parents[1] / "scenes.json"
            truth = scene_facts.SceneTruth(file)
            facts = [truth(row["image"]) for row in results]
            found, judged = scene_facts.score(captions, references, facts, self.resamples)
            totals |= found
            for row, statements in zip(results, judged, strict=True):
                row["false"] = list(dict.fromkeys(s.text for s in statements if not s.true))
        if known := domains.read_domains((self.dataset_meta or {}).get("ann_file", "")):
            own = [known.get(row["image"]) for row in results]
            totals |= domains.domain_scores(own, captions, references, self.resamples)
        if self.chair is not None:
            objects, finder = self.chair
            missing = [row["image"] for row in results if row["image"] not in objects]
            if missing:
                raise ValueError(f"chair.instances does not know the image {missing[0]}")
            own = [objects[row["image"]] for row in results]
            totals |= hallucination.chair(captions, references, own, finder)[0]
