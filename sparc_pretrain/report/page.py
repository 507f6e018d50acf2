"""One page that shows a pre-training, what became of it in transfer, and where each number is from.

`build` walks work dirs for these files, and leaves out, with a remark, what is not there:

metrics.json        see engine.records.write_metrics; any task. Evaluations with equal task, config
                    and data are put side by side.
pictures/*.png      beside a metrics.json: the truth in the left half, the prediction in the right
                    one; equal names in two work dirs of one setting are one image.
captions.json       beside a metrics.json: [{"image": name, "caption": str, "references": [str]}],
                    optional "file" (path of the image), "scores" ({name: number}), "false" ([str],
                    what is not so in the image).
retrieval.json      beside a metrics.json: {"images": [path], "examples": [{"query": str, "answers":
                    [row of images, best first], "correct": row}]}, and, optional, "captions": [str]
                    with "image_of_text": [row of each caption's image]: alternative texts, and
                    samples when `images` is not given.
run folders         by their manifest.json.
vis_data/scalars.json   the logs of MMEngine, below WORK_DIR/TIMESTAMP/.

The page is self-contained: pictures, styles and the viewer's script inside, no network. Text of
data sets is escaped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.metric import short
from sparc_pretrain.page import viewer
from sparc_pretrain.report import captions as caption_section
from sparc_pretrain.report import samples, sections
from sparc_pretrain.report.figures import Album
from sparc_pretrain.report.numbers import (
    Comparison,
    absent,
    chances,
    compare,
    label,
    scale,
    shown,
)
from sparc_pretrain.report.records import Evaluation, Found, gather, style
from sparc_pretrain.report.starts import starts_of
from sparc_pretrain.report.verdict import next_steps, verdict
from sparc_pretrain.zeroshot import readings

TEMPLATE = "page.html"
PARTS = ("design.css", "viewer.css", "viewer.js", "curves.js")
TITLE = "SPARC: pre-training and transfer"
FIRST = 6  # rows of a comparison that are open


def build(
    work_dirs: Sequence[str | Path],
    out: str | Path,
    images: str | Path | Sequence[str | Path] | None = None,
    captions: str | Path | None = None,
    title: str = TITLE,
    phrases: str | Path | None = None,
) -> Path:
    """Write the page to `out` (atomically) and return its path.

    Args:
        images: a folder or files to show samples, alignments and captions of; captions: their
            caption file, of any format that `data.captions` reads; phrases: a phrase file, whose
            boxes are outlined where a word of theirs is lit.

    Raises:
        FileNotFoundError: a work dir, image, caption or phrase file that is not there.
        ValueError: no metrics.json below `work_dirs`, or a file that is not what it should be.
    """
    given = [images] if isinstance(images, (str, Path)) else list(images or [])
    found = gather([Path(folder) for folder in work_dirs])
    known = samples.Images([Path(path) for path in given], found.evaluations)
    some = samples.samples(known, Path(captions) if captions else None, found.evaluations)
    album, missing = Album(), []
    run = samples.pretrained(found.runs)
    truth = Path(phrases) if phrases else None
    alignment = samples.alignment(album, run, some, truth) if run else []
    if run is None:
        missing.append("Words and patches: no run folder with a text tower.")
    elif not alignment:
        missing.append("Words and patches: no captioned images (--images, --captions).")
    curves = sections.curves(found)
    if not curves:
        missing.append("Training curves: no vis_data/scalars.json with a loss.")
    retrieval = sections.retrieval(album, found.evaluations, known)
    if not retrieval:
        missing.append("Retrieval examples: no retrieval.json, or its images are not here.")
    galleries = {}
    for kind in ("detection", "segmentation"):
        galleries[kind] = sections.galleries(album, kind, found.evaluations)
        if not galleries[kind]:
            missing.append(f"{kind.capitalize()} beside the truth: no pictures of an evaluation.")
    drawings = sections.drawings(album, found.evaluations)
    captioned = caption_section.captions(album, found.evaluations, known)
    if not captioned:
        missing.append("Captions beside the references: no captions.json.")
    comparisons = compare(found.evaluations)
    if not comparisons:
        missing.append(
            "Starts side by side: no evaluation has a counterpart from another start with the "
            "same task, config and data."
        )
    way = samples.way(album, found, some, alignment)
    if album.left_out:
        missing.append(f"{album.left_out} pictures: the page would have become too large.")
    missing += [f"{path}: cannot be read." for path in dict.fromkeys(album.damaged)]
    page = (
        viewer.environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            title=title,
            style=style,
            verdict=verdict(comparisons, found),
            next_steps=next_steps(comparisons, found),
            parts={name: viewer.part(name) for name in PARTS},
            tiles=_tiles(found.evaluations, comparisons),
            way=way,
            curves=curves,
            alignment=alignment,
            run=samples.backbone_facts(run) if run else None,
            measured=viewer.told(readings.measured(run)) if run else "",
            retrieval=retrieval,
            galleries=galleries,
            drawings=drawings,
            captioned=captioned,
            struck=any("false" in row for e in found.evaluations for row in e.captions),
            comparisons=[_comparison(one) for one in comparisons],
            per_class=sections.per_class(_groups(found.evaluations, comparisons)),
            rows=[_row(evaluation, found, Path(out).parent) for evaluation in found.evaluations],
            image_contrast=any("+" in e.start for e in found.evaluations),
            missing=missing,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            folders=[str(folder) for folder in work_dirs],
        )
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, lambda file: file.write(page.encode()))
    return out


def _tiles(
    evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """Bars of the headline metric: one tile per comparison, then one per setting without any."""
    groups = _groups(evaluations, comparisons)
    tiles = []
    for one in groups:
        name = one.headline()
        if name is None:
            continue
        cells = {start: one.cell(start, name) for start in one.columns}
        bars = [(start, c) for start, c in cells.items() if c is not None and c.value is not None]
        if not bars:
            continue
        first = one.starts[bars[0][0]][0]
        rows = [(start, cell.plain, cell.value, style(start)) for start, cell in bars]
        for who, value in chances(first):
            height = value * scale(name, first).factor
            rows.append((who, shown(name, value, first), height, "chance"))
        top = max(value for _, _, value, _ in rows) or 1
        alike = [g for g in groups if (g.kind, g.place) == (one.kind, one.place)]
        tiles.append(
            {
                "kind": one.kind,
                "place": one.place,
                "metric": label(name, first),
                "config": one.config_name if len(alike) > 1 else "",
                "lower": scale(name, first).higher_is_better is False,
                "bars": [
                    (start, text, round(100 * max(0, value) / top, 1), drawn)
                    for start, text, value, drawn in rows
                ],
            }
        )
    return tiles


def _groups(
    evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]
) -> list[Comparison]:
    """The comparisons, then the settings that have one start only."""
    compared = {(one.kind, one.config, one.data) for one in comparisons}
    groups = list(comparisons)
    for evaluation in evaluations:
        if evaluation.setting not in compared:
            compared.add(evaluation.setting)
            alone = [e for e in evaluations if e.setting == evaluation.setting]
            groups.append(Comparison(*_where(evaluation), starts_of(alone)))
    return groups


def _where(evaluation: Evaluation) -> tuple[str, str, str, str]:
    kind, config, data = evaluation.setting
    return kind, evaluation.place, config, data


def _comparison(one: Comparison) -> dict[str, Any]:
    """A comparison as rows of text: per metric the baseline, then each start and its difference;
    what is not among the first goes to `more`. `n`: what most differences are of, said once.
    """
    others = one.columns[1:]
    first = one.starts[one.baseline][0]
    rows, more, nowhere, counts = [], [], [], Counter()
    names = one.names()
    ahead = [name for name in names if short(name) in caption_section.OF_A_RUN] or names[:FIRST]
    for name in names:
        cells = [
            (one.cell(other, name), one.elsewhere(other, name), one.difference(other, name))
            for other in others
        ]
        base = one.cell(one.baseline, name)
        if all(cell is None or cell.value is None for cell in (base, *(c for c, *_ in cells))):
            nowhere.append(label(name, first))
            continue
        counts.update(gap.n for *_, gap in cells if gap and gap.n)
        row = (label(name, first), base, one.elsewhere(one.baseline, name), cells)
        (rows if name in ahead else more).append(row)
    gaps = [gap for row in rows + more for *_, gap in row[-1] if gap]
    return {
        "more": more,
        "single": one.one_run_each,
        "n": counts.most_common(1)[0][0] if counts else "",
        "coloured": any(gap.colour for gap in gaps),
        "intervals": any(" to " in cell.rest for row in rows for cell, *_ in row[-1] if cell),
        "elsewhere": any(row[2] for row in rows + more),
        "kind": one.kind,
        "place": one.place,
        "config": one.config,
        "remark": one.remark,
        "baseline": one.baseline,
        "others": others,
        "rows": rows,
        "nowhere": nowhere,
    }


def _metrics(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """(name, label, number, its interval) of what was measured, the headline first; the names of
    what was not, at the end.
    """
    told = evaluation.metrics
    rows, none = [], []
    for name in sorted(told, key=lambda name: name != evaluation.headline):
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in told:
            continue
        ends = [told.get(name + end) for end in ("_low", "_high")]
        between = " to ".join(shown(name, end, evaluation).removesuffix(" %") for end in ends)
        row = (name, label(name, evaluation), shown(name, told[name], evaluation))
        (none if absent(name, told[name]) else rows).append((*row, "" if None in ends else between))
    return rows + none


def _row(evaluation: Evaluation, found: Found, place: Path) -> dict[str, Any]:
    """An evaluation as a row of the table of everything, with links from a page in `place` to the
    files that are there.
    """
    record, backbone = evaluation.record, evaluation.backbone
    config = Path(record.get("config") or "-")
    configs = [evaluation.file.with_name(config.name), config]
    runs = [run.path for run in found.runs if run.sha256 == backbone.get("sha256")]

    def link(*paths: Path) -> str:
        there = next((path for path in paths if path.exists()), None)
        if there is None:
            return ""
        return quote(os.fsencode(os.path.relpath(there.resolve(), place.resolve())))

    return {
        "links": {"file": link(evaluation.file), "config": link(*configs), "run": link(*runs)},
        "task": evaluation.task,
        "place": evaluation.place,
        "data": record.get("data"),
        "start": evaluation.start,
        "style": style(evaluation.start),
        "run": backbone.get("run"),
        "sha": str(backbone.get("sha256") or "")[:12],
        "objective": backbone.get("objective"),
        "seen": backbone.get("samples_seen"),
        "config": record.get("config"),
        "checkpoint": record.get("checkpoint"),
        "metrics": _metrics(evaluation),
        "protocol": json.dumps(record.get("protocol"), indent=1, ensure_ascii=False),
        "versions": record.get("versions") or {},
        "seconds": record.get("seconds"),
        "date": str(record.get("date") or "")[:16].replace("T", " "),
        "file": str(evaluation.file),
    }
