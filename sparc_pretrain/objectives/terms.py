"""Which terms a step has: their weights, the one task of many that it draws, and zero gradients for
what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparc_pretrain import chance
from sparc_pretrain.chance import Stream
from sparc_pretrain.distributed import total, world_size
from sparc_pretrain.types import Features


class Terms:
    """The terms of an objective by the tasks that train them.

    Args:
        owner: the objective's name, for messages. known: task -> its terms. seed: of the draws.
        weights: of terms, 1 where not given; a term of weight 0 is not computed. tasks: None = all
            tasks in every step; else their shares, one of which a step has, on all processes.

    Raises ValueError for names that are not known.
    """

    def __init__(
        self,
        owner: str,
        known: Mapping[str, Sequence[str]],
        seed: int,
        weights: Mapping[str, float] | None,
        tasks: Mapping[str, float] | None,
    ) -> None:
        self.known, self.seed = {task: tuple(terms) for task, terms in known.items()}, seed
        names = [term for terms in self.known.values() for term in terms]
        for what, given, ours in (("weights", weights, names), ("tasks", tasks, list(known))):
            if unknown := sorted(set(given or {}) - set(ours)):
                raise ValueError(f"{owner}: {what} of {unknown}; known: {tuple(ours)}")
        self.weights = {**dict.fromkeys(names, 1.0), **(weights or {})}
        self.tasks = dict(tasks) if tasks else None

    def runs(self, task: str, step: int) -> bool:
        """Whether a task has a weight and, of sampled ones, is the step's."""
        if not any(self.weights[term] for term in self.known[task]):
            return False
        if self.tasks is None:
            return True
        shares = [self.tasks.get(name, 0.0) for name in self.known]
        return task == list(self.known)[chance.pick(self.seed, step, Stream.TASK, shares)]

    def trains(self, task: str) -> bool:
        """Whether a task has a weight and, of sampled ones, a share; no task: it has not."""
        weighted = any(self.weights[term] for term in self.known.get(task, ()))
        return weighted and (self.tasks is None or self.tasks.get(task, 0.0) > 0)

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries `TERM_loss` times the term's weight, the others as they are."""
        weights = {f"{term}_loss": weight for term, weight in self.weights.items()}
        return {key: value * weights.get(key, 1) for key, value in losses.items()}


def anchored(
    losses: dict[str, Tensor], features: Features, names: Iterable[str], module: nn.Module
) -> dict[str, Tensor]:
    """The losses with a zero gradient for features and parameters that they may not have used:
    another process may have, and waits for this one. names: the features.
    """
    parts = [getattr(features, name) for name in names]
    used = [x for x in (*parts, *module.parameters()) if x is not None and x.requires_grad]
    zero = 0 * sum(x.sum() for x in used)
    name = next((key for key in losses if key.endswith("_loss")), "idle_loss")
    return {**losses, name: losses.get(name, 0) + zero}


def share_of(**counted: Tensor) -> dict[str, Tensor]:
    """What divides the sums of terms: how many there are in the global batch over the number of
    processes, at least 1 of them. counted: bool tensors of the rank's whole batch.
    """
    sums = torch.stack([x.sum().double() for x in counted.values()])
    return dict(zip(counted, (total(sums).clamp(min=1) / world_size()).unbind(), strict=True))
