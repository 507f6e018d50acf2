"""Logs are not the run: a backend that is missing or down costs a warning, never the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.logging import print_log
from mmengine.visualization.vis_backend import BaseVisBackend

WRITERS = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars", "close")
PATIENCE = 3  # failures in a row; after that a dead server would only be waited for


def shelter(backend: BaseVisBackend) -> BaseVisBackend:
    """The same backend, whose writing methods never raise.

    The first failure is logged with its reason. A backend whose package is missing, or that fails
    `PATIENCE` times in a row, is left alone from then on; one that recovers goes on.
    """
    name = type(backend).__name__
    failures = 0
    warned = False

    def guarded(write: Callable) -> Callable:
        @wraps(write)
        def attempt(*args: Any, **kwargs: Any) -> Any:
            nonlocal failures, warned
            if failures >= PATIENCE:
                return None
            try:
                result = write(*args, **kwargs)
            except Exception as error:  # client libraries, servers and disks raise anything
                failures = PATIENCE if isinstance(error, ImportError) else failures + 1
                if not warned:
                    said = " ".join(str(error).split())[:300]
                    text = f"{name} fails, training goes on without it: {said}"
                    print_log(text, "current", logging.WARNING)
                warned = True
                return None
            failures = 0
            return result

        return attempt

    for method in WRITERS:
        setattr(backend, method, guarded(getattr(backend, method)))
    return backend


def sheltered(original: Callable) -> Callable:
    """Visualizer.__init__, with every backend of the new visualizer sheltered."""

    @wraps(original)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for backend in self._vis_backends.values():
            shelter(backend)

    return initialise
