"""Where evaluations of one setting start from, and which of them are runs of one start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sparc_pretrain.report.records import RANDOM, Evaluation


def starts_of(group: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Start -> its runs (see `counted_once`), the baseline last."""
    origins: dict[tuple[str, str], list[Evaluation]] = {}
    for one in group:
        origins.setdefault((one.start, str(one.backbone.get("sha256"))), []).append(one)
    names = [start for start, _ in origins]
    starts = {}
    for (start, sha), runs in origins.items():
        told = start
        if names.count(start) > 1:
            told = f"{start} ({runs[0].backbone.get('run')}, {sha[:8]})"
        starts[told] = counted_once(runs)
    baseline = RANDOM if RANDOM in starts else next(iter(starts))
    return {**{k: v for k, v in starts.items() if k != baseline}, baseline: starts[baseline]}


def counted_once(runs: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations of one backbone in one setting, one of each run: the last.

    A record with the metrics and the protocol of another is that run again, written or copied to
    a second folder. What was evaluated without any training is one run however often it was
    evaluated: no seed is between.
    """
    return list({_run_of(one): one for one in runs}.values())


def _run_of(one: Evaluation) -> str:
    """What is equal for evaluations of one run, of one backbone in one setting."""
    trained = one.record.get("config") or one.record.get("checkpoint")
    if one.backbone.get("sha256") and not trained:
        return "the backbone itself"
    return json.dumps([one.metrics, _protocol(one)], sort_keys=True, default=str)


def protocol_differences(starts: dict[str, list[Evaluation]]) -> list[str]:
    """What was not alike, in words: a difference of numbers may come from it."""
    *others, base = starts
    mine, found = _protocol(starts[base][0]), []
    for name in others:
        theirs = _protocol(starts[name][0])
        unlike = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
        if not (mine.get("iterations") and theirs.get("iterations")):
            # a test of a checkpoint counts no iterations
            unlike = [k for k in unlike if k != "iterations"]
        found += [f"{k} {theirs.get(k)} with {name} and {mine.get(k)} with {base}" for k in unlike]
    return found


def _protocol(evaluation: Evaluation) -> dict[str, Any]:
    """The protocol without what has to differ: output files, the objective that reads, and which of
    its terms hold against what.
    """
    protocol = dict(evaluation.record.get("protocol") or {})
    for name in ("read_by", "holds", "controls"):
        protocol.pop(name, None)
    if isinstance(protocol.get("evaluator"), dict):
        protocol["evaluator"] = {
            k: v for k, v in protocol["evaluator"].items() if k != "outfile_prefix"
        }
    return protocol
