"""The sections of the report that show evaluations: curves, retrieval, galleries. Each returns
what the template needs; an empty list where there is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup
from torch import Tensor

from sparc_pretrain.report.figures import Album, Curve, absent, alike, chart, halves
from sparc_pretrain.report.numbers import Comparison, label, scale
from sparc_pretrain.report.records import OF_SPARC, Evaluation, Found, TrainingLog, style
from sparc_pretrain.report.samples import Images, backbone_facts

QUERIES, ANSWERS, PICTURES, COLUMNS = 6, 5, 4, 4
WIDE = 460  # longer side of a picture with labels, pixels: they must be read
SHEET = 680  # of one with two halves and lines below
DRAWN = ("grounding", "terms")
TERMS = {
    "loss": "Total loss",
    "global_loss": "Global loss: image against caption",
    "local_loss": "Local loss: word against patches",
    "image_contrast_tokens_loss": "Image contrast of words in context",
    "image_contrast_words_loss": "Image contrast of words alone",
}


def curves(found: Found) -> list[dict[str, Any]]:
    """Charts of pre-training (each term, its held-out value beside it), then of transfer: total
    loss, and the headline of validations where there are several.
    """
    charts = []
    logs = sorted(found.logs, key=lambda log: _start(log, found) not in OF_SPARC)
    ahead = [log for log in logs if log.run]
    terms = dict.fromkeys(key for log in ahead for key in log.rows[-1] if key.endswith("loss"))
    for key in sorted(terms, key=lambda key: (key != "loss", key)):
        if lines := [*_lines(ahead, key, found), *_lines(ahead, key, found, held_out=True)]:
            title = TERMS.get(key, key.replace("_", " ").capitalize())
            charts.append(_chart("Pre-training", title, lines))
    if lines := _lines(ahead, "R@1", found, held_out=True, factor=100):
        charts.append(_chart("Pre-training", "Held-out R@1, percent", lines))
    groups: dict[str, list[TrainingLog]] = {}
    for log in logs:
        if log.run is None:
            own = _of(log, found)
            kind = f"{own.kind.capitalize()} on {own.place}" if own else "Other training"
            groups.setdefault(kind, []).append(log)
    for kind, logs in groups.items():
        if lines := _lines(logs, "loss", found):
            charts.append(_chart("Transfer", f"{kind}: training loss", lines))
        own = next((own for log in logs if (own := _of(log, found))), None)
        key = own.headline if own else None
        if key and max(len(log.series(key, held_out=True)) for log in logs) > 1:
            how = scale(key, own)
            lines = _lines(logs, key, found, held_out=True, factor=how.factor)
            title = f"{kind}: {label(key, own)} of validations{', in percent' * (how.unit == ' %')}"
            charts.append(_chart("Transfer", title, lines))
    return charts


def _chart(part: str, title: str, lines: list[Curve]) -> dict[str, Any]:
    return {"part": part, "title": title, "svg": chart(title, lines), "curves": lines}


def _lines(
    logs: Sequence[TrainingLog],
    key: str,
    found: Found,
    held_out: bool = False,
    factor: float = 1,
) -> list[Curve]:
    lines: list[Curve] = []
    for log in logs:
        points = [(x, y * factor) for x, y in log.series(key, held_out)]
        if not any(math.isfinite(y) for _, y in points):
            continue
        start = _start(log, found)
        drawn = style(start)
        nth = sum(line.style.startswith(drawn) for line in lines) + held_out
        told = ", held out" if held_out and log.run else ""
        alone = [_start(other, found) for other in logs].count(start) == 1
        where = "" if alone else "/".join(log.folder.parts[-2:])
        about = f"{where}{_weight(log, key)}{told}".removeprefix(", ")
        name = f"{start} ({about})" if about else start
        lines.append(Curve(name, f"{drawn} dash{nth % 4}", points))
    return lines


def _of(log: TrainingLog, found: Found) -> Evaluation | None:
    return next((e for e in found.evaluations if e.file.parent == log.folder), None)


def _start(log: TrainingLog, found: Found) -> str:
    """What a training is called: its backbone's origin, or for pre-training its objective."""
    if log.run is None:
        own = _of(log, found)
        return own.start if own else "not evaluated"
    return backbone_facts(log.run)["objective"]


def _weight(log: TrainingLog, key: str) -> str:
    """The factor inside a logged term, where the run folder tells it."""
    objective = (log.run.config["objective"] if log.run else None) or {}
    weight = objective.get(key.replace("_loss", "_weight"), 1)
    return f", weight {weight:g}" if weight != 1 else ""


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
            about = {i: texts[0] for i, texts in evaluation.captions_by_image().items()}
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
                row = {"start": named(evaluation, group), "answers": answers, "rank": rank}
                wanted = images.find(told["images"][example["correct"]])
                if rank is None and wanted is not None:  # what should have been among them
                    alt = about.get(example["correct"], "the right image")
                    row["wanted"] = album.picture(wanted, f"{alt} (the right image)", 150)
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
        group, rows = side_by_side(group, len({e.start for e in group})), []
        for file in group[0].pictures[:PICTURES]:
            own = [evaluation.file.parent / "pictures" / file.name for evaluation in group]
            there = {path: album.read(path) for path in own if path.exists()}
            sound = [halves(both)[0] for both in there.values() if both is not None]
            if not sound:
                continue
            truth, number, cells = sound[0], len(rows) + 1, []
            for evaluation, path in zip(group, own, strict=True):
                alt = f"Image {number}: predicted, {named(evaluation, group)}"
                cells.append(_predicted(album, there[path], truth, alt) if path in there else None)
            rows.append([album.picture(truth, f"Image {number}: the truth", WIDE), *cells])
        if not rows:
            continue
        heads = ["truth", *(named(e, group) for e in group)]
        sections.append({"place": group[0].place, "heads": heads, "rows": rows})
    return sections


def _predicted(album: Album, both: Tensor | None, truth: Tensor, alt: str) -> Markup | None:
    """The right half of a picture that was there to read; None for one of another image."""
    if both is None:
        return absent(f"{alt} (cannot be read)")
    drawn, predicted = halves(both)
    return album.picture(predicted, alt, WIDE) if alike(truth, drawn) else None


def drawings(album: Album, evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Per evaluation of grounding or of terms its first pictures, whole: on the left what is, on
    the right what the model makes of it.
    """
    return [
        {
            "start": one.start,
            "kind": one.kind,
            "place": one.place,
            "pictures": [
                album.picture(file, f"{one.kind}, {one.start}: {file.stem}", SHEET)
                for file in one.pictures[:PICTURES]
            ],
        }
        for one in evaluations
        if one.kind in DRAWN and one.pictures
    ]


def side_by_side(group: Sequence[Evaluation], columns: int = COLUMNS) -> list[Evaluation]:
    """At most `columns` of a group, in its order: one of each start before a second of any."""
    turns: list[tuple[int, int]] = []
    for number, one in enumerate(group):
        before = sum(other.start == one.start for other in group[:number])
        turns.append((before, number))
    return [group[number] for number in sorted(number for _, number in sorted(turns)[:columns])]


def per_class(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Per setting and metric: the classes, each with its mean over the runs of each start; sorted
    by the last start's, the best first.
    """
    tables = []
    for one in comparisons:
        told = {
            start: [run.record.get("per_class") or {} for run in one.starts[start]]
            for start in one.columns
        }
        for name in dict.fromkeys(key for runs in told.values() for run in runs for key in run):
            means = {
                start: _means([run[name] for run in runs if name in run])
                for start, runs in told.items()
            }
            means = {start: values for start, values in means.items() if values}
            if not means:
                continue
            last = list(means.values())[-1]
            classes = sorted(last, key=lambda c: -last[c])
            rows = [
                (
                    c,
                    [
                        f"{100 * v:.1f}" if (v := values.get(c)) is not None else "n/a"
                        for values in means.values()
                    ],
                )
                for c in classes
            ]
            tables.append(
                {
                    "kind": one.kind,
                    "place": one.place,
                    "starts": list(means),
                    "metric": name.replace("bbox_", "box ").replace("segm_", "mask "),
                    "rows": rows,
                }
            )
    return tables


def _means(runs: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """Class -> the mean over the runs that have it."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: fmean(found) for name, found in values.items()}


def named(evaluation: Evaluation, group: Sequence[Evaluation]) -> str:
    """The start of an evaluation; where two of a group start alike, with as much of the end of its
    folder's path as tells them apart.
    """
    twins = [e.file.parent.parts for e in group if e.start == evaluation.start]
    if len(twins) == 1:
        return evaluation.start
    lengths = range(1, max(map(len, twins)) + 1)
    length = next(n for n in lengths if len({parts[-n:] for parts in twins}) == len(twins))
    return f"{evaluation.start} ({'/'.join(evaluation.file.parent.parts[-length:])})"
