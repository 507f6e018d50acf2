"""Whether each term of a run has learnt what it is for: on held-out pairs, with the image of the
text, with another's, with none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from tqdm import tqdm

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.pretraining.batch_features import features_of
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.types import Batch
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.terms import pairs
from sparc_pretrain.zeroshot.terms.readings import READINGS, Asked, Values

TEXT, SIGHT = ("elsewhere",), ("elsewhere", "unseen")
# number -> the controls that it must be above, besides chance
AGAINST = {
    "itc_gain": TEXT,
    "itm_accuracy": TEXT,
    "mlm_accuracy": SIGHT,
    "box_IoU": TEXT,
    "wra_gap": TEXT,
    "mrfr_explained": TEXT,
    "mrc_accuracy": TEXT,
    "mrc_kl_explained": TEXT,
    "mtl_word_accuracy": SIGHT,
    "mtl_tag_accuracy": SIGHT,
    "pollution_accuracy": (),  # captions and tags alone tell much: see `unseen` beside it
    "amlm_accuracy": SIGHT,
    **{f"{name}_accuracy": ("untrained",) for name in ("rotation", "jigsaw", "camouflage")},
    "grey_explained": (),
    "blank_explained": (),
}
# what guesses states: of a frozen tower it cannot be read without that tower
OF_TARGET = ("mrfr_explained", "grey_explained", "blank_explained")
CONDITIONS = {
    "own": "the text's own image",
    "elsewhere": "the image, regions and salient box of the next pair",
    "unseen": "a blank image with the boxes of the next pair",
    "untrained": "the own image by a vision tower as it is initialised",
}
METRICS = (
    Metric("chance_*", higher_is_better=None, words="the commonest or a constant answer"),
    *(Metric(f"*_{name}", "number", None, words=CONDITIONS[name]) for name in CONDITIONS),
    Metric("*_accuracy"),
    Metric("box_IoU", words="mean IoU of predicted boxes"),
    Metric("*_gain", "number", words="nats below a guess"),
    Metric("*_gap", "number", words="transport distance of unmatched pairs less that of matches"),
    Metric("*_explained", "number", words="share of a constant answer's error that is gone"),
)
LEVEL = 0.05  # of intervals


@torch.no_grad()
def evaluate(
    model: DualEncoder,
    objective: Objective,
    shards: str,
    numbers: dict[str, int],
    words: Sequence[str] | None = None,
    visits: int = 4,
    batch_size: int = 64,
    caption: str = "any",
) -> Outcome:
    """Every term on `visits` drawings of the pairs, in batches as in training.

    A term holds when it is above chance and above each control of AGAINST: the lower end of the
    95 % interval of the difference, over batches (Student's t), is above 0.

    Terms that guess states of a frozen tower are not read: a run folder has not got it (protocol:
    `unread`).

    Args: shards, numbers, caption: see `pairs.dataset_of`. words: hidden ones that count.

    Raises ValueError for an objective that has no such terms, and as `pairs.dataset_of`.
    """
    if type(objective) not in READINGS:
        known = ", ".join(sorted(kind.__name__ for kind in READINGS))
        raise ValueError(f"{type(objective).__name__} has no terms to read; they are of {known}")
    data = pairs.dataset_of(model, objective, shards, numbers, caption)
    spelled = None if words is None else pairs.spelled(words, model.tokenizer)
    asked = Asked(spelled, model.objective_config.get("labels", ()))
    objective.terms.tasks = None  # all of them, not one of a step
    unread: tuple[str, ...] = ()
    if vars(objective).get("target") == "frozen":  # the tower that a run started from is gone
        objective.target, unread = "self", OF_TARGET
    read = READINGS[type(objective)]
    # condition -> batch -> the values of its visits
    found: dict[str, list[list[Values]]] = defaultdict(list)
    towers = _towers(model, objective)
    for visit in range(visits):
        every = pairs.batches(data, batch_size, visit)
        for number, batch in enumerate(tqdm(every, desc=f"visit {visit + 1}", disable=None)):
            for name, tower, shown in _conditions(model, towers, batch):
                shown = shown.to(model.mean.device)
                shown = replace(shown, views=objective.views(shown, visit))
                values = read(objective, features_of(tower, objective, shown), shown, asked)
                if visit == 0:
                    found[name].append([])
                found[name][number].append(values)
    known = [name for name in AGAINST if any(name in v for v in found["own"][0])]
    rows = [_row(name, found) for name in known if name not in unread]
    outcome = _outcome(rows, len(data), visits, batch_size, caption, asked)
    outcome.protocol["unread"] = [name for name in known if name in unread]
    return outcome


def _towers(model: DualEncoder, objective: Objective) -> dict[str, DualEncoder]:
    """The model, and the same with another vision tower for tasks that no text can solve."""
    if objective.sees_images:
        return {"own": model}
    fresh = deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh.vision = VisionTower.from_config(model.vision.config()).to(model.mean.device).eval()
    return {"own": model, "untrained": fresh}


def _conditions(
    model: DualEncoder, towers: dict[str, DualEncoder], batch: Batch
) -> Iterator[tuple[str, DualEncoder, Batch]]:
    for name, tower in towers.items():
        yield name, tower, batch
    yield "elsewhere", model, pairs.elsewhere(batch)
    yield "unseen", model, pairs.unseen(batch)


def _row(name: str, found: dict[str, list[list[Values]]]) -> dict[str, Any]:
    """A term: its number, chance, controls, and what it is clearly above."""
    by = {
        condition: [_mean([v[name].number for v in one if name in v]) for one in batches]
        for condition, batches in found.items()
    }
    own = by["own"]
    chance = [_mean([v[name].chance for v in one if name in v]) for one in found["own"]]
    row: dict[str, Any] = dict(term=name, value=_mean(own), chance=_mean(chance), items=own)
    controls = {condition: _mean(values) for condition, values in by.items() if condition != "own"}
    if name.endswith("_explained"):
        controls.pop("unseen")  # what blank pictures are to become is all alike
    row |= controls
    held = {"chance": chance, **{condition: by[condition] for condition in AGAINST[name]}}
    row["above"] = {key: _low(own, values) for key, values in held.items()}
    known = {key: low for key, low in row["above"].items() if not math.isnan(low)}
    row["holds"] = bool(known) and all(low > 0 for low in known.values())
    return row


def _mean(values: Sequence[float]) -> float:
    values = [v for v in values if not math.isnan(v)]
    return fmean(values) if values else math.nan


def _low(own: Sequence[float], other: Sequence[float]) -> float:
    """The lower end of the interval of own - other, batch by batch; NaN of less than two."""
    differences = [a - b for a, b in zip(own, other, strict=True) if not math.isnan(a - b)]
    if len(differences) < 2:
        return math.nan
    error = stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) - student.ppf(1 - LEVEL / 2, len(differences) - 1) * error


def _outcome(
    rows: list[dict[str, Any]],
    count: int,
    visits: int,
    batch_size: int,
    caption: str,
    asked: Asked,
) -> Outcome:
    metrics, items = {}, {}
    for row in rows:
        items[row["term"]] = row.pop("items")
        told = {row["term"]: row["value"], f"chance_{row['term']}": row["chance"]}
        told |= {f"{row['term']}_{name}": row[name] for name in CONDITIONS if name in row}
        metrics |= {name: value for name, value in told.items() if not math.isnan(value)}
    protocol = {
        "pairs": count // batch_size * batch_size,
        "batch": batch_size,
        "visits": visits,
        "caption": caption,
        "conditions": CONDITIONS,
        "hidden_words": "all" if asked.words is None else len(asked.words),
        "holds": {row["term"]: row["holds"] for row in rows},
        "holding": "above chance and these controls, lower end of the 95 % interval over batches",
        "controls": {row["term"]: AGAINST[row["term"]] for row in rows},
    }
    owners = list(range(len(next(iter(items.values()), []))))
    return Outcome(metrics, protocol, items, owners, {"terms": _plain(rows)}, METRICS)


def _plain(rows: Any) -> Any:
    """NaN as None: JSON has no NaN."""
    if isinstance(rows, dict):
        return {key: _plain(value) for key, value in rows.items()}
    if isinstance(rows, list):
        return [_plain(value) for value in rows]
    return None if isinstance(rows, float) and math.isnan(rows) else rows
