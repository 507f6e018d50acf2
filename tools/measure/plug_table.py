"""The page of `plug_report.py`."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from transfer import mm

PASSES, FAILS, EXCLUDED = "passes", "fails", "not applicable"
UNUSABLE = ("part", "unreadable")  # kinds of files without a model, and of those that do not load
DISTRIBUTIONS = {"mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation"}


def folders(results: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Status of every folder: it fails if a config of it fails, and is not applicable if no
    config is.
    """
    found: dict[tuple[str, str], str] = {}
    for key in sorted({(r["library"], r["folder"]) for r in results}):
        inside = {r["status"] for r in results if (r["library"], r["folder"]) == key}
        found[key] = next(s for s in (FAILS, PASSES, EXCLUDED) if s in inside)
    return found


def counts(results: list[dict[str, Any]]) -> list[str]:
    """One line per library."""
    lines = []
    for library in mm.SCOPES:
        states = [s for (name, _), s in folders(results).items() if name == library]
        tried = [r["status"] for r in results if r["library"] == library]
        usable, tested = (len(s) - s.count(EXCLUDED) for s in (states, tried))
        lines.append(
            f"{library} {version(DISTRIBUTIONS[library])}: {len(states)} folders, {usable} "
            f"applicable, {states.count(PASSES)} pass, {states.count(FAILS)} fail, "
            f"{states.count(EXCLUDED)} not applicable; {len(tried)} configs, {tested} applicable, "
            f"{tried.count(PASSES)} pass"
        )
    return lines


def table(results: list[dict[str, Any]]) -> str:
    """The page."""
    date = datetime.now(UTC).date()
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, no GPU"
    if torch.cuda.is_available():
        machine = f"{platform.machine()}, {torch.cuda.get_device_name()}"
    head = [
        "# Any mm config takes our backbone",
        "",
        f"`python tools/measure/plug_report.py`, {date}, {machine}, torch {torch.__version__}. "
        "Of every config folder in the wheels, one config per kind of model: a tiny run folder is "
        "plugged in, the model is built, one loss step is taken "
        "(finite, with a gradient in every weight of backbone and pyramid), and two images are "
        "predicted. "
        "Weights are random, images are small and of noise; heads keep their structure. The text "
        "tower of GLIP and Grounding DINO is a BERT of one layer, teachers have no checkpoint. "
        "Data sets are not read: panoptic ones need panopticapi, which PyPI does not have "
        "(pip install git+https://github.com/cocodataset/panopticapi.git).",
        "",
        *(f"- {line}" for line in counts(results)),
        "",
        "| library | folder | config | model | status | reason | s |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for r in results:
        config = r["config"].split("/", 2)[2]
        reason = r["reason"].replace("|", "\\|")
        cells = (r["library"], r["folder"], config, r["model"], r["status"], reason, r["seconds"])
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*head, *rows, ""])
