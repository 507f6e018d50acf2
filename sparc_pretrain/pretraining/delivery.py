"""How batches come from the loader's workers to the device.

Workers hand over micro-batches, so that of a step's batch one part at a time lies in /dev/shm for
every worker; they are joined into the batch, where its captions are sorted (see `accumulation`). On
a GPU each part is copied on a stream of its own while the step before computes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from sparc_pretrain.data.collate import join
from sparc_pretrain.registry import LOOPS
from sparc_pretrain.types import Batch

LOADER = "sparc_pretrain.data.dataset"  # what the workers of a loader import


class Delivery:
    """A loader of micro-batches as a loader of whole batches, which arrive on `device` if that is a
    GPU.

    Args:
        loader: gives `parts` micro-batches for each batch, in order. device: of the model.

    Everything else, such as `dataset` and `sampler`, is the loader's own.
    """

    def __init__(self, loader: Iterable[Batch], parts: int, device: torch.device) -> None:
        self.loader, self.parts, self.device = loader, parts, device

    @property
    def batch_size(self) -> int:
        """Pairs of a whole batch."""
        return self.loader.batch_size * self.parts

    def __len__(self) -> int:
        return len(self.loader) // self.parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)

    def __iter__(self) -> Iterator[Batch]:
        # the loader draws a random number here: a resumed run restores its states afterwards
        parts = iter(self.loader)
        return self._ahead(parts) if self.device.type == "cuda" else self._whole(parts)

    def _whole(self, parts: Iterator[Batch]) -> Iterator[Batch]:
        while (batch := join(parts, self.parts)) is not None:
            yield batch
            del batch

    def _sent(self, part: Batch) -> Batch:
        return part.to(self.device, non_blocking=True)

    def _ahead(self, parts: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on the device, the next one on its way when one is handed over."""
        stream = torch.cuda.Stream(self.device)
        batches = self._whole(map(self._sent, parts))  # who has been sent is held by nobody

        def send() -> Batch | None:
            with torch.cuda.stream(stream):
                return next(batches, None)

        coming = send()
        while coming is not None:
            here = coming
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(stream)
            here.changed(partial(_used_on, current))
            coming = send()
            yield here


def _used_on(stream: Any, x: torch.Tensor) -> torch.Tensor:
    """Its memory is not given to the next copy before what uses it on `stream` is done."""
    x.record_stream(stream)
    return x


@LOOPS.register_module()
class PretrainLoop(IterBasedTrainLoop):
    """mmengine's loop by steps, whose batches come by `Delivery`.

    Args:
        runner, max_iters, options: mmengine's. dataloader: its section of the config, for whole
            batches, which the loader makes in `parts`.

    Raises ValueError when these do not divide a batch.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_iters: int,
        parts: int = 1,
        **options: Any,
    ) -> None:
        if isinstance(dataloader, dict):
            size = dataloader["batch_size"]
            if size % parts:
                raise ValueError(f"a batch of {size} cannot be split into {parts} equal parts")
            dataloader = dict(dataloader, batch_size=size // parts)
        super().__init__(runner, dataloader, max_iters, **options)
        device = next(runner.model.parameters()).device
        self.dataloader = Delivery(self.dataloader, parts, device)
        self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)


def start_of_workers(sources: Sequence[dict[str, Any]], workers: int) -> dict[str, str]:
    """The argument of torch's DataLoader that says how its workers start, where torch's own way,
    fork, will not do: the process that forks has looked at remote shards, and its threads that
    carry their bytes would be missing.
    """
    if not workers or not _far(sources):
        return {}
    multiprocessing.set_forkserver_preload([LOADER])  # imported once for all of them
    return dict(multiprocessing_context="forkserver")


def ahead(sources: Sequence[dict[str, Any]], size: int, workers: int) -> dict[str, int]:
    """The argument of the sampler for remote shards: a worker that makes batches of `size` learns
    what its next one begins with, so that it does not wait for the first answers.
    """
    return dict(ahead=size * max(1, workers)) if _far(sources) else {}


def _far(sources: Sequence[dict[str, Any]]) -> bool:
    return any("://" in str(source["shards"]) for source in sources)
