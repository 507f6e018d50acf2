"""Captioned pictures for the report, and what the backbone makes of them: the way, and words on
patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.image_folder import image_files
from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.page import truth, viewer
from sparc_pretrain.report.figures import Album, halves
from sparc_pretrain.report.records import OF_SPARC, RANDOM, Evaluation, Found, called
from sparc_pretrain.run_folder import RunFolder
from sparc_pretrain.zeroshot import encode, readings
from sparc_pretrain.zeroshot.alignment import overlay

SAMPLES, WORDS = 4, 9
OTHERS, VIEWED = 2, 420  # images that words are held against; pixels of a picture in the viewer


@dataclass(frozen=True)
class Sample:
    """A picture and its captions."""

    file: Path
    captions: list[str]

    @property
    def telling(self) -> str:
        """Its longest caption of at most 16 words, else its first."""
        fitting = [text for text in self.captions if len(text.split()) <= 16]
        return max(fitting, key=len) if fitting else self.captions[0]


class Images:
    """Finds pictures by the names that records give them.

    Args:
        given: files and folders; folders that retrieval.json files name are looked in as well.
    """

    def __init__(self, given: Sequence[Path], evaluations: Iterable[Evaluation]) -> None:
        for path in given:
            if not path.exists():
                raise FileNotFoundError(f"no image or folder {path}")
        self.files = [p for p in given if p.is_file()]
        self.folders = [p for p in given if p.is_dir()]
        self.by_name = {p.name: p for p in self.files}
        for evaluation in evaluations:
            listed = (evaluation.retrieval or {}).get("images", [])
            for folder in dict.fromkeys(Path(name).parent for name in listed):
                self.folders += [folder] if folder.is_dir() else []

    def find(self, name: str) -> Path | None:
        """The file called `name`, or None."""
        places = [Path(name), *(folder / name for folder in self.folders)]
        places += [folder / Path(name).name for folder in self.folders]
        found = next((place for place in places if place.is_file()), None)
        return found or self.by_name.get(Path(name).name)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spaced: nobody selected them."""
    kept = min(count, len(items))
    return [items[i * len(items) // kept] for i in range(kept)]


def samples(
    images: Images, captions: Path | None, evaluations: Sequence[Evaluation]
) -> list[Sample]:
    """Captioned pictures for the way and the alignment.

    From `captions` and the images given; else from a retrieval.json with captions.

    Raises:
        ValueError: none of the images that `captions` names was given.
    """
    if captions is not None:
        table = {name: texts for name, texts in read_captions(captions).items() if texts}
        if images.files:
            table = {n: t for n, t in table.items() if Path(n).name in images.by_name}
        names = spread(list(table), SAMPLES)
        picked = [Sample(file, table[name]) for name in names if (file := images.find(name))]
        if not picked:
            raise ValueError(f"none of the images that {captions} names was given with --images")
        return picked
    if images.files:
        return [Sample(file, []) for file in spread(images.files, SAMPLES)]
    for evaluation in evaluations:
        texts = evaluation.captions_by_image()
        found = [
            Sample(file, texts[i])
            for i in spread(sorted(texts), SAMPLES)
            if (file := images.find(evaluation.retrieval["images"][i]))
        ]
        if found:
            return found
    return [
        Sample(file, [])
        for folder in images.folders[:1]
        for file in spread(image_files(folder, below=False)[0], SAMPLES)
    ]


def pretrained(runs: Sequence[RunFolder]) -> RunFolder | None:
    """The SPARC run that saw the most pairs, else any run with a text tower."""

    def rank(run: RunFolder) -> tuple[bool, int]:
        objective = (run.config["objective"] or {}).get("type")
        return objective == "Sparc", run.config.get("samples_seen") or 0

    return max((run for run in runs if run.config["text"]), key=rank, default=None)


def backbone_facts(run: RunFolder) -> dict[str, Any]:
    """What the page says about a run folder."""
    vision = run.config["vision"]
    return {
        "name": run.name,
        "sha": run.sha256,
        "arch": f"{vision['arch'].split('_patch')[0]}/{vision['patch']}",
        "size": vision["img_size"],
        "objective": called(run.config.get("objective")) or "no objective",
        "seen": run.config.get("samples_seen"),
    }


def alignment(
    album: Album, run: RunFolder, some: Sequence[Sample], phrases: Path | None = None
) -> list[dict[str, Any]]:
    """Per sample: the photo, its caption, the heat of each telling word with what it finds more
    than in the other samples, and the viewer of all that.

    Args:
        phrases: a phrase file; what it knows of these captions is outlined.

    Raises as `read_phrases`.
    """
    known = {} if phrases is None else {one.file.name: one for one in read_phrases(None, phrases)}
    (model, objective), rows = encode.load(run.path), []
    read = [(one, album.read(one.file)) for one in some if one.captions]
    captioned = [(sample, photo) for sample, photo in read if photo is not None]
    for sample, photo in captioned:
        caption = sample.telling
        others = [other for _, other in captioned if other is not photo][:OTHERS]
        found = readings.read(model, objective, photo, others, caption)
        if not found:
            continue
        told_of = known.get(sample.file.name)
        places = truth.of_caption(told_of, caption) if told_of else []
        pixels, words, seen = _fit(photo, 320), [], set()
        for at, word in enumerate(found[0].own):
            name = word.word.lower()
            plain = not any(map(str.isalpha, name)) or truth.is_minor(name)
            if plain or name in seen or len(words) == WORDS:
                continue
            seen.add(name)
            alt = f"Patches that the word {word.word} gathers"
            lit = truth.outlined(overlay(pixels, word.weights), truth.boxes_of(word, places))
            picture = album.picture(lit, alt, 220)
            gap = found[0].gap(at)
            told = f"\N{MULTIPLICATION SIGN}{word.peak:.1f}" if gap is None else f"{gap:+.2f}"
            told = "0.00" if told[1:] == "0.00" else told.replace("-", "\N{MINUS SIGN}")
            out = bool(others) and found[0].stands_out(at)
            words.append({"word": word.word, "told": told, "picture": picture, "out": out})
        names = [sample.file.name, *("another sample" for _ in others)]
        row = {"photo": album.picture(photo, caption, 260), "caption": caption, "words": words}
        row |= {"others": len(others), "outlined": bool(places)}
        row["viewer"] = viewer.fragment(caption, photo, others, found, names, VIEWED, places)
        rows.append(row)
    return rows


def _fit(photo: Tensor, side: int) -> np.ndarray:
    """[3,H,W] -> [H,W,3] numpy, its longer side `side`, so that heat is drawn smoothly."""
    image = photo.permute(1, 2, 0).contiguous().numpy()
    factor = side / max(image.shape[:2])
    size = [max(1, round(n * factor)) for n in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _pretrained_first(shown: Sequence[Evaluation]) -> Evaluation:
    """Of SPARC where there is one, else of any start that is not untrained: what the way leads to,
    not its baseline.
    """
    rank = dict.fromkeys(OF_SPARC, 0) | {RANDOM: 2}
    return min(shown, key=lambda one: rank.get(one.start, 1))


def _losses(run: RunFolder) -> str:
    """What the objective of `run` asks of images and words, in words; '' for one that is not
    SPARC's.
    """
    told = run.config.get("objective") or {}
    if told.get("type") != "Sparc":
        return ""
    parts = ["an image has to match its caption among all pairs of a batch"]
    if told.get("local_weight", 1):
        parts.append("each word the patches it gathers, among the words of its caption")
    if told.get("image_contrast"):
        together = told.get("contrast_of") == "captions"
        parts.append(
            "the words of a caption together, by what they gather there, their own image"
            if together
            else "each word, by what it gathers there, its own image rather than another"
        )
    text = ", and ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def way(album: Album, found: Found, some: Sequence[Sample], rows: Sequence[dict]) -> dict[str, Any]:
    """The pictures of 'The way', from what the other sections found."""
    ends = {}
    for kind in ("detection", "segmentation"):
        shown = [e for e in found.evaluations if e.kind == kind and e.pictures]
        if shown:
            best = _pretrained_first(shown)
            read = (album.read(file) for file in best.pictures)
            both = next((one for one in read if one is not None), None)
            if both is None:
                continue
            truth, predicted = halves(both)
            ends[kind] = {
                "start": best.start,
                "truth": album.picture(truth, f"A {kind}: the truth", 300),
                "predicted": album.picture(predicted, f"A {kind}: predicted, {best.start}", 300),
            }
    if said := [e for e in found.evaluations if e.captions]:
        best = _pretrained_first(said)
        text = " ".join(str(best.captions[0]["caption"]).split())
        ends["captioning"] = {"start": best.start, "text": text or "(an empty caption)"}
    run = pretrained(found.runs)
    return {
        "samples": [
            {
                "picture": album.picture(s.file, s.telling if s.captions else "A sample", 200),
                "caption": s.telling if s.captions else "",
            }
            for s in some[:2]
        ],
        "words": rows[0]["words"][:2] if rows else [],
        "losses": _losses(run) if run else "",
        "run": backbone_facts(run) if run else None,
        "ends": ends,
    }
