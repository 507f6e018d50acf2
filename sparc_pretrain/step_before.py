"""The numbers of a step for people to read, without waiting for a GPU: those of the step before."""

from __future__ import annotations

import torch
from torch import Tensor

Numbers = dict[str, Tensor]


def must_wait(values: Tensor) -> bool:
    """Whether reading `values` would wait for all that its device has been given to do."""
    return values.device.type != "cpu"


class Later:
    """Values [n] on their way to the CPU; `read` waits for them alone, not for later work."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.there = values.detach(), None
        if values.is_cuda:
            self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.values.copy_(values.detach(), non_blocking=True)
            self.there = torch.cuda.Event()
            self.there.record()

    def read(self) -> Tensor:
        """The values on the CPU."""
        if self.there is not None:
            self.there.synchronize()
        return self.values.cpu()


class StepBefore:
    """Numbers (scalars) in, the same out on a CPU; on a GPU those of the call before, on the CPU:
    they are there by now. The first call gives its own.
    """

    def __init__(self) -> None:
        self._sent: tuple[list[str], Later] | None = None

    def __call__(self, numbers: Numbers) -> Numbers:
        """numbers -> what is known of them without waiting."""
        if not numbers or not must_wait(next(iter(numbers.values()))):
            return numbers
        joined = torch.stack([value.detach().float() for value in numbers.values()])
        sent = list(numbers), Later(joined)
        (names, later), self._sent = self._sent or sent, sent
        return dict(zip(names, later.read().unbind(), strict=True))
