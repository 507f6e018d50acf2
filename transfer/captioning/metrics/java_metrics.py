"""METEOR and SPICE through pycocoevalcap's jars: optional, where Java and the jars are there."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transfer.captioning.metrics import intervals

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
    name: str,
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    resamples: int = 0,
) -> tuple[float, list[float], tuple[float, float] | None]:
    """(corpus score, one per item, 95 % interval over images or None without `resamples`), 0 to 1,
    of tokens joined by spaces.

    METEOR of a corpus is no mean of its items: it is computed from the sums of their counts, and
    so is the interval, by METEOR itself. SPICE is a mean.

    Raises ValueError with the reason when it cannot be computed here.
    """
    if reason := unavailable(name):
        raise ValueError(reason)
    if name == "METEOR":
        return _meteor(candidates, references, resamples)
    from pycocoevalcap.spice.spice import Spice

    ours = {i: [text] for i, text in enumerate(candidates)}
    theirs = {i: list(texts) for i, texts in enumerate(references)}
    corpus, rows = Spice().compute_score(theirs, ours)
    items = [float(row["All"]["f"]) for row in rows]
    return float(corpus), items, intervals.mean_interval(items, resamples) if resamples else None


def _meteor(
    candidates: Sequence[str], references: Sequence[Sequence[str]], resamples: int
) -> tuple[float, list[float], tuple[float, float] | None]:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    counted = [scorer._stat(c, list(r)) for c, r in zip(candidates, references, strict=True)]

    def asked(lines: Sequence[str]) -> tuple[list[float], float]:
        """Scores of lines of counts, and that of their sum."""
        scorer.meteor_p.stdin.write(f"EVAL ||| {' ||| '.join(lines)}\n".encode())
        scorer.meteor_p.stdin.flush()
        found = [float(scorer.meteor_p.stdout.readline()) for _ in range(len(lines) + 1)]
        return found[:-1], found[-1]

    items, corpus = asked(counted)
    if not resamples:
        return corpus, items, None
    rows = np.array([[float(number) for number in line.split()] for line in counted])
    sums = intervals.resampled_counts(len(rows), resamples, seed=0) @ rows
    drawn, _ = asked([" ".join(map(str, row)) for row in sums.tolist()])
    return corpus, items, intervals.percentiles(np.asarray(drawn), level=0.95)
