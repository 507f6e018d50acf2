"""METEOR and SPICE through pycocoevalcap's jars: optional, where Java and the jars are there."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

NAMES = ("METEOR", "SPICE")


def unavailable(name: str) -> str | None:
    """Why `name` cannot be computed here, or None when it can.

    Raises ValueError for other names.
    """
    if name not in NAMES:
        raise ValueError(f"java_metrics are {', '.join(NAMES)}, not {name!r}")
    if shutil.which("java") is None:
        return f"{name} needs Java, which is not installed"
    package = Path(importlib.util.find_spec("pycocoevalcap").submodule_search_locations[0])
    jar = {
        "METEOR": package / "meteor" / "meteor-1.5.jar",
        # pycocoevalcap would download Stanford CoreNLP when it is first asked
        "SPICE": package / "spice" / "lib" / "stanford-corenlp-3.6.0.jar",
    }[name]
    return None if jar.is_file() else f"{name} needs {jar.name}, which pycocoevalcap does not bring"


def java_score(
    name: str, candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """(corpus score, one per item), 0 to 1, of tokens joined by spaces.

    Raises ValueError with the reason when it cannot be computed here.
    """
    if reason := unavailable(name):
        raise ValueError(reason)
    ours = {i: [text] for i, text in enumerate(candidates)}
    theirs = {i: list(texts) for i, texts in enumerate(references)}
    if name == "METEOR":
        from pycocoevalcap.meteor.meteor import Meteor

        corpus, items = Meteor().compute_score(theirs, ours)
        return float(corpus), [float(value) for value in items]
    from pycocoevalcap.spice.spice import Spice

    corpus, rows = Spice().compute_score(theirs, ours)
    return float(corpus), [float(row["All"]["f"]) for row in rows]
