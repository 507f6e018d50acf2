"""The sections of the report that show pictures and curves; each returns what the template needs, or
nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.run_folder import RunFolder
from sparc_pretrain.zeroshot.alignment import align, overlay
from transfer.report_figures import Album, Curve, alike, chart, halves, read
from transfer.report_records import RANDOM, STARTS, Evaluation, Found, TrainingLog

SAMPLES, WORDS, QUERIES, ANSWERS, PICTURES, CAPTIONS, COLUMNS = 4, 9, 6, 5, 6, 6, 4
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
# Words that name nothing one could point at; they are left out of the alignment pictures.
FUNCTION_WORDS = frozenset(
    "a an the and or of in on at to with from by for is are was be being been it its his her their "
    "there this that as while".split()
)
STYLES = {"SPARC": "sparc", "CLIP": "clip", RANDOM: "random"}
TERMS = {
    "loss": "Total loss",
    "global_loss": "Global loss: image against caption",
    "local_loss": "Local loss: word against patches",
}


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
    step = max(1, len(items) // count)
    return list(items[::step][:count])


def samples(images: Images, captions: Path | None, evaluations: Sequence[Evaluation]) -> list[Sample]:
    """Captioned pictures for the way and the alignment.

    From `captions` and the images given; else from a retrieval.json with captions.

    Raises:
        ValueError: none of the images that `captions` names was given.
    """
    if captions is not None:
        table = {name: texts for name, texts in read_captions(captions).items() if texts}
        if images.files:
            table = {n: t for n, t in table.items() if Path(n).name in images.by_name}
        picked = [Sample(f, table[n]) for n in spread(list(table), SAMPLES) if (f := images.find(n))]
        if not picked:
            raise ValueError(f"none of the images that {captions} names was given with --images")
        return picked
    if images.files:
        return [Sample(file, []) for file in spread(images.files, SAMPLES)]
    for evaluation in evaluations:
        told = evaluation.retrieval or {}
        texts: dict[int, list[str]] = {}
        for text, owner in zip(
            told.get("captions", []), told.get("image_of_text", []), strict=False
        ):
            texts.setdefault(owner, []).append(text)
        found = [
            Sample(file, texts[i])
            for i in spread(sorted(texts), SAMPLES)
            if (file := images.find(told["images"][i]))
        ]
        if found:
            return found
    return [
        Sample(file, [])
        for folder in images.folders[:1]
        for file in spread(
            sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), SAMPLES
        )
    ]


def pretrained(runs: Sequence[RunFolder]) -> RunFolder | None:
    """The SPARC run that saw the most pairs, else any run with a text tower."""

    def rank(run: RunFolder) -> tuple[bool, int]:
        objective = (run.config["objective"] or {}).get("type")
        return objective == "Sparc", run.config.get("samples_seen") or 0

    return max((run for run in runs if run.config["text"]), key=rank, default=None)


def backbone_facts(run: RunFolder) -> dict[str, Any]:
    """What the page says about a run folder."""
    vision, objective = run.config["vision"], (run.config["objective"] or {}).get("type")
    return {
        "name": run.name,
        "sha": run.sha256,
        "arch": f"{vision['arch'].split('_patch')[0]}/{vision['patch']}",
        "size": vision["img_size"],
        "objective": STARTS.get(objective, objective or "no objective"),
        "seen": run.config.get("samples_seen"),
    }


def alignment(album: Album, run: RunFolder, some: Sequence[Sample]) -> list[dict[str, Any]]:
    """Per sample: the photo, its caption and the heat of each telling word."""
    model, rows = DualEncoder.from_pretrained(run.path), []
    for sample in some:
        if not sample.captions:
            continue
        photo = read(sample.file)
        pixels = _fit(photo, 320)
        words, seen = [], set()
        for word in align(model, photo, sample.telling):
            name = word.word.lower()
            plain = not any(letter.isalpha() for letter in name) or name in FUNCTION_WORDS
            if plain or name in seen or len(words) == WORDS:
                continue
            seen.add(name)
            alt = f"Patches that the word {word.word} gathers"
            picture = album.picture(overlay(pixels, word.weights), alt, 220)
            words.append({"word": word.word, "peak": f"{word.peak:.1f}", "picture": picture})
        rows.append(
            {
                "photo": album.picture(photo, sample.telling, 260),
                "caption": sample.telling,
                "words": words,
            }
        )
    return rows


def _fit(photo: Any, side: int) -> Any:
    """[3,H,W] -> [H,W,3] numpy, its longer side `side`, so that heat is drawn smoothly."""
    import cv2

    image = photo.permute(1, 2, 0).contiguous().numpy()
    factor = side / max(image.shape[:2])
    size = [max(1, round(n * factor)) for n in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def curves(found: Found) -> list[dict[str, Any]]:
    """Charts of pre-training (each term), then of transfer (total loss, per kind)."""
    charts = []
    ahead = [log for log in found.logs if log.pretraining]
    for key, title in TERMS.items():
        lines = _lines(ahead, key, found)
        if lines and not (key == "loss" and len(lines) == 1 and len(ahead[0].series("loss")) < 2):
            charts.append(_chart("Pre-training", title, lines))
    groups: dict[str, list[TrainingLog]] = {}
    for log in found.logs:
        if not log.pretraining:
            own = _of(log, found)
            kind = f"{own.kind.capitalize()} on {own.place}" if own else "Other training"
            groups.setdefault(kind, []).append(log)
    for kind, logs in groups.items():
        if lines := _lines(logs, "loss", found):
            charts.append(_chart("Transfer", f"{kind}: training loss", lines))
    return charts


def _chart(part: str, title: str, lines: list[Curve]) -> dict[str, Any]:
    return {"part": part, "title": title, "svg": chart(title, lines), "curves": lines}


def _lines(logs: Sequence[TrainingLog], key: str, found: Found) -> list[Curve]:
    lines: list[Curve] = []
    for log in logs:
        points = log.series(key)
        if not any(math.isfinite(y) for _, y in points):
            continue
        start = _start(log, found)
        style = STYLES.get(start, "other")
        nth = sum(line.style.startswith(style) for line in lines)
        name = f"{start} ({'/'.join(log.folder.parts[-2:])})"
        lines.append(Curve(name, f"{style} dash{nth % 4}", points))
    return lines


def _of(log: TrainingLog, found: Found) -> Evaluation | None:
    return next((e for e in found.evaluations if e.file.parent == log.folder), None)


def _start(log: TrainingLog, found: Found) -> str:
    """What a training is called: its backbone's origin, or for pre-training its objective."""
    if not log.pretraining:
        own = _of(log, found)
        return own.start if own else "not evaluated"
    for run in found.runs:
        if run.path.parent == log.folder.resolve():
            return backbone_facts(run)["objective"]
    return "SPARC" if "local_loss" in log.rows[-1] else "CLIP"


def retrieval(
    album: Album, evaluations: Sequence[Evaluation], images: Images
) -> list[dict[str, Any]]:
    """Per data set: queries, and for each run the images that answered best."""
    groups: dict[tuple[str, str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.retrieval:
            groups.setdefault(evaluation.setting, []).append(evaluation)
    sections = []
    for group in groups.values():
        queries: dict[str, list[dict[str, Any]]] = {}
        for evaluation in group[:COLUMNS]:
            told = evaluation.retrieval
            about = {}
            for text, owner in zip(
                told.get("captions", []), told.get("image_of_text", []), strict=False
            ):
                about.setdefault(owner, text)
            for example in told["examples"]:
                if example["query"] not in queries and len(queries) == QUERIES:
                    continue
                answers = []
                for i in example["answers"][:ANSWERS]:
                    file = images.find(told["images"][i])
                    right = i == example["correct"]
                    alt = about.get(i, "an answer") + (" (the right image)" if right else "")
                    picture = album.picture(file, alt, 150) if file else None
                    answers.append({"picture": picture, "right": right, "name": alt})
                rank = next((n for n, a in enumerate(answers, start=1) if a["right"]), None)
                row = {"start": _named(evaluation, group), "answers": answers, "rank": rank}
                queries.setdefault(example["query"], []).append(row)
        if any(a["picture"] for rows in queries.values() for row in rows for a in row["answers"]):
            sections.append({"place": group[0].place, "queries": queries})
    return sections


def galleries(album: Album, kind: str, evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Per setting: the truth, and beside it what each start predicted for the same image."""
    groups: dict[tuple[str, str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.kind == kind and evaluation.pictures:
            groups.setdefault(evaluation.setting, []).append(evaluation)
    sections = []
    for group in groups.values():
        group, rows = group[:COLUMNS], []
        for file in group[0].pictures[:PICTURES]:
            truth, _ = halves(file)
            number = len(rows) + 1
            cells = []
            for evaluation in group:
                own = evaluation.file.parent / "pictures" / file.name
                same = own.exists() and alike(truth, halves(own)[0])
                alt = f"Image {number}: predicted, {_named(evaluation, group)}"
                cells.append(album.picture(halves(own)[1], alt, 340) if same else None)
            rows.append([album.picture(truth, f"Image {number}: the truth", 340), *cells])
        heads = ["truth", *(_named(e, group) for e in group)]
        sections.append({"place": group[0].place, "heads": heads, "rows": rows})
    return sections


def captions(
    album: Album, evaluations: Sequence[Evaluation], images: Images
) -> list[dict[str, Any]]:
    """Per setting: images with their references and what each start's captioner says."""
    groups: dict[tuple[str, str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.captions:
            groups.setdefault(evaluation.setting, []).append(evaluation)
    sections = []
    for group in groups.values():
        group, rows = group[:COLUMNS], []
        said = [{str(row["image"]): row for row in e.captions} for e in group]
        for name in spread(list(said[0]), CAPTIONS):
            first, file = said[0][name], images.find(name)
            rows.append(
                {
                    "picture": album.picture(file, f"Image {Path(name).name}", 300) if file else None,
                    "name": Path(name).name,
                    "references": list(first.get("references") or []),
                    "captions": [
                        (_named(e, group), own[name]["caption"])
                        for e, own in zip(group, said, strict=True)
                        if name in own
                    ],
                }
            )
        sections.append({"place": group[0].place, "rows": rows})
    return sections


def way(album: Album, found: Found, some: Sequence[Sample], rows: Sequence[dict]) -> dict[str, Any]:
    """The pictures of 'The way', from what the other sections found."""
    ends = {}
    for kind in ("detection", "segmentation"):
        shown = [e for e in found.evaluations if e.kind == kind and e.pictures]
        if shown:
            best = next((e for e in shown if e.start == "SPARC"), shown[0])
            prediction = halves(best.pictures[0])[1]
            ends[kind] = album.picture(prediction, f"A {kind} ({best.start})", 240)
    for evaluation in found.evaluations:
        if evaluation.captions and "captioning" not in ends:
            text = re.sub(r"\s+", " ", str(evaluation.captions[0]["caption"])).strip()
            ends["captioning"] = text or "(an empty caption)"
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
        "run": backbone_facts(run) if run else None,
        "ends": ends,
    }


def _named(evaluation: Evaluation, group: Sequence[Evaluation]) -> str:
    """The start of an evaluation, with its folder where two of a group start alike."""
    twins = sum(other.start == evaluation.start for other in group)
    return evaluation.start + (f" ({evaluation.file.parent.name})" if twins > 1 else "")


