"""The section of the report that shows captions: pictures with their references and what each run
says, side by side, with the scores of each caption and of each run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sparc_pretrain.metric import short
from sparc_pretrain.report.figures import Album
from sparc_pretrain.report.numbers import label, shown
from sparc_pretrain.report.records import Evaluation
from sparc_pretrain.report.samples import Images, spread
from sparc_pretrain.report.sections import named, side_by_side

CAPTIONS = 6
OF_A_CAPTION = ("CIDEr", "K-Precision")
OF_A_RUN = ("CIDEr", "BLEU-4", "K-Precision", "scene-true", "scene-objects", "scene-colours")
OF_A_RUN += ("scene-relations", "scene-backgrounds", "scene-captions")


def captions(
    album: Album, evaluations: Sequence[Evaluation], images: Images
) -> list[dict[str, Any]]:
    """Per setting: `runs`, their scores, and `rows`, images with references and captions."""
    groups: dict[tuple[str, str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.captions:
            groups.setdefault(evaluation.setting, []).append(evaluation)
    return [_section(album, group, images) for group in groups.values()]


def _section(album: Album, group: list[Evaluation], images: Images) -> dict[str, Any]:
    names = [
        name
        for name in OF_A_RUN
        if any(one.metrics.get(_full(one, name)) is not None for one in group)
    ]
    runs = [(named(one, group), [_cell(one, name) for name in names]) for one in group]
    chosen = side_by_side(group)
    said = [{str(row["image"]): row for row in one.captions} for one in chosen]
    rows = []
    for name in spread(list(said[0]), CAPTIONS):
        first, file = said[0][name], Path(name).name
        found = images.find(str(first.get("file") or name)) or images.find(name)
        told = [
            _told(one, named(one, group), own[name])
            for one, own in zip(chosen, said, strict=True)
            if name in own
        ]
        rows.append(
            {
                "picture": album.picture(found, f"Image {file}", 300) if found else None,
                "name": file,
                "references": list(first.get("references") or []),
                "captions": told,
            }
        )
    if len(chosen) == len(group) == len({one.start for one in group}) > 1:
        names, runs = [], []  # one run of each start: "Starts side by side" has these numbers
    heads = [label(_full(group[0], name), group[0]) for name in names]
    hidden = len(group) - len(chosen)
    return {"place": group[0].place, "heads": heads, "runs": runs, "rows": rows, "hidden": hidden}


def _told(evaluation: Evaluation, start: str, row: dict[str, Any]) -> dict[str, Any]:
    """One caption: its scores in words, and its text in pieces that are false or not."""
    scores = row.get("scores") or {}
    pieces, rest = struck(str(row["caption"]), [str(text) for text in row.get("false") or []])
    return {
        "start": start,
        "pieces": pieces,
        "rest": rest,
        "scores": [
            f"{name} {shown(_full(evaluation, name), scores[name], evaluation)}"
            for name in OF_A_CAPTION
            if name in scores
        ],
    }


def struck(caption: str, false: Sequence[str]) -> tuple[list[tuple[str, bool]], list[str]]:
    """(`caption` in pieces, each with whether it is in `false`; what of `false` is not in it as it
    stands there). Empty for a caption without words.
    """
    text = " ".join(caption.split())
    wrong, rest = [False] * len(text), []
    for one in false:
        found = [match.span() for match in re.finditer(rf"\b{re.escape(one)}\b", text, re.I)]
        for start, end in found:
            wrong[start:end] = [True] * (end - start)
        if not found:
            rest.append(one)
    pieces = groupby(zip(text, wrong, strict=True), key=lambda pair: pair[1])
    return [("".join(letter for letter, _ in part), sign) for sign, part in pieces], rest


def _full(evaluation: Evaluation, name: str) -> str:
    """'caption/CIDEr' of 'CIDEr', as the evaluation has it."""
    return next((key for key in evaluation.metrics if short(key) == name), name)


def _cell(evaluation: Evaluation, name: str) -> tuple[str, str]:
    """A score of a run, and its interval where there is one."""
    full = _full(evaluation, name)
    low, high = (evaluation.metrics.get(f"{full}{end}") for end in ("_low", "_high"))
    text = shown(full, evaluation.metrics.get(full), evaluation)
    if low is None or high is None:
        return text, ""
    ends = (shown(full, value, evaluation).removesuffix(" %") for value in (low, high))
    return text, " to ".join(ends)
