"""Writing beside training: what is saved is copied in memory, and one thread writes it."""

from __future__ import annotations

import atexit
import copy
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mmengine.logging import print_log
from torch import Tensor


class Writer:
    """Does actions one after another: at once, or (`background`) in a thread of its own, while the
    caller goes on. A process that ends waits for it.

    After one that raised none is done until `failure` has told of it: what follows a write, such as
    the deletion of an older file, counts on it.
    """

    def __init__(self, background: bool = False) -> None:
        self.background = background
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future] = []
        self._error: Exception | None = None
        self._copies: dict[tuple, tuple[Tensor, Tensor]] = {}

    def do(self, action: Callable[[], object]) -> None:
        """Do `action`, now or after those before it. Raises, when it is done now, what it does."""
        if not self.background:
            action()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "writer")
            atexit.register(self._end)  # `distributed.leave` ends a process without its threads
        self._waiting.append(self._pool.submit(self._attempt, action))

    def own(self, state: Any) -> Any:
        """What training will not change under the thread: `state` with copies, on the CPU, of all
        that can change, or itself when actions are done at once. Tensors of one place are copied
        once until `forget`.
        """
        if not self.background:
            return state
        if isinstance(state, Tensor):
            place = (state.data_ptr(), state.dtype, state.shape, state.stride(), state.device)
            if place not in self._copies:  # with the original, so that its place stays taken
                made = state.detach().to("cpu", copy=True)
                self._copies[place] = (state, made)
            return self._copies[place][1]
        if isinstance(state, dict):
            made = copy.copy(state)  # a module's state dict has attributes too
            made.update((key, self.own(value)) for key, value in state.items())
            return made
        if type(state) in (list, tuple):
            return type(state)(self.own(value) for value in state)
        return copy.deepcopy(state)

    def forget(self) -> None:
        """What was copied is not needed any more, but by actions that hold it."""
        self._copies.clear()

    @property
    def busy(self) -> bool:
        """Whether an action is not done yet."""
        self._waiting = [one for one in self._waiting if not one.done()]
        return bool(self._waiting)

    @property
    def failed(self) -> bool:
        """Whether there is a `failure` to tell."""
        return self._error is not None

    def wait(self) -> None:
        """Until all actions are done."""
        for one in self._waiting:
            one.result()
        self._waiting = []

    def failure(self) -> Exception | None:
        """What the last action that was done has raised, told once."""
        error, self._error = self._error, None
        return error

    def _end(self) -> None:
        self.wait()
        if self._error is not None:
            print_log(f"the last save failed: {self._error}", "current", logging.ERROR)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._error is None:
            try:
                action()
            except Exception as error:
                self._error = error
