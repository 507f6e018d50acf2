"""The module that answers to ``mmcv._ext`` where mmcv has no compiled kernels, and the choice
between the two.

mmcv reaches its kernels only through ``import_module('mmcv._ext')`` and ``hasattr``.
:class:`StandIn` is a module with the kernels that mmdet and mmseg need, from torchvision and plain
PyTorch (CPU and CUDA); any other name gives a function that raises when it is *called*, so that
everything imports. A compiled ``mmcv._ext`` that loads always wins.

``SPARC_MMCV_OPS=standin`` takes the stand-in even so; ``SPARC_MMCV_OPS=compiled`` refuses to start
without the compiled one.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NoReturn

from transfer.mm.ops import boxes, deform, deform_pool, focal, masks, norm, reassembly, regions

EXTENSION = "mmcv._ext"
SWITCH = "SPARC_MMCV_OPS"
CHOICES = ("auto", "standin", "compiled")

FAMILIES = (
    boxes,
    regions,
    focal,
    deform,
    deform_pool,
    reassembly,
    masks,
    norm,
)
KERNELS: dict[str, Callable[..., Any]] = {
    kernel.__name__: kernel for family in FAMILIES for kernel in family.KERNELS
}


class StandIn(ModuleType):
    """``mmcv._ext`` without a compiler: the functions of :data:`KERNELS`, and for any other op one
    that raises.

    Raises:
        NotImplementedError: when an op outside :data:`KERNELS` is called; the message says how to
            compile mmcv.
    """

    def __init__(self) -> None:
        super().__init__(EXTENSION, "torchvision and PyTorch kernels in the place of mmcv's own")
        # No loader: mmcv.utils.check_ops_exist() then says, truly, that there are no compiled ops.
        self.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader=None)
        vars(self).update(KERNELS)

    def get_compiler_version(self) -> str:
        """For ``mmcv.utils.collect_env``, which every Runner calls when it starts."""
        return "none (torchvision stand-in)"

    def get_compiling_cuda_version(self) -> str:
        """For ``mmcv.utils.collect_env``, as above."""
        return "none (torchvision stand-in)"

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):  # Python's own questions, such as __path__: no
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise NotImplementedError(
                f"mmcv op '{name}' has no torchvision stand-in; "
                f"compile mmcv (torch <= 2.13): {compile_command()}"
            )

        missing.__name__ = name
        return missing


def compile_command() -> str:
    """Returns the shell command that builds mmcv's own kernels (about 20 minutes on two cores)."""
    try:
        pinned = f"onedl-mmcv=={version('onedl-mmcv')}"
    except PackageNotFoundError:
        pinned = "onedl-mmcv"
    return (
        "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --no-deps "
        f"--force-reinstall --no-binary onedl-mmcv {pinned}"
    )


def is_standin() -> bool:
    """Returns whether ``mmcv._ext`` is ours in this process."""
    return isinstance(sys.modules.get(EXTENSION), StandIn)


def install(choice: str | None = None) -> ModuleType:
    """Puts the right ``mmcv._ext`` in place, also under those ``mmcv.ops`` that are already
    imported. Idempotent.

    Args:
        choice: ``auto`` (compiled if it loads), ``standin`` or ``compiled``; None reads
            ``SPARC_MMCV_OPS``, else ``auto``.

    Returns:
        The module now in use, compiled or :class:`StandIn`.

    Raises:
        ValueError: for another choice.
        ModuleNotFoundError: without mmcv.
        ImportError: for ``compiled`` where the compiled module is absent or does not load.
    """
    choice = choice or os.environ.get(SWITCH) or "auto"
    if choice not in CHOICES:
        raise ValueError(f"{SWITCH}={choice!r}: must be one of {', '.join(CHOICES)}")
    module = _standin() if choice == "standin" else _compiled(required=choice == "compiled")
    _put(module)
    return module


@contextmanager
def using(choice: str) -> Iterator[ModuleType]:
    """Inside the ``with``, :func:`install` ``(choice)``; afterwards what was there before. Raises
    what install raises.
    """
    before = sys.modules.get(EXTENSION)
    try:
        yield install(choice)
    finally:
        if before is not None:
            _put(before)


def _standin() -> StandIn:
    present = sys.modules.get(EXTENSION)
    return present if isinstance(present, StandIn) else StandIn()


def _compiled(required: bool) -> ModuleType:
    """Returns the compiled module; where it cannot be had, the stand-in, unless ``required``."""
    present = sys.modules.get(EXTENSION)
    if present is not None and not (required and isinstance(present, StandIn)):
        return present
    sys.modules.pop(EXTENSION, None)
    try:
        return importlib.import_module(EXTENSION)
    except (ImportError, OSError) as error:
        absent = isinstance(error, ModuleNotFoundError)
        if absent and error.name != EXTENSION:
            raise ModuleNotFoundError(
                f"mmcv cannot be imported ({error}): pip install -c constraints.txt onedl-mmcv",
                name=error.name,
            ) from error
        if required:
            if isinstance(present, StandIn):
                sys.modules[EXTENSION] = present
            raise ImportError(
                f"no compiled mmcv kernels ({error}); unset {SWITCH} or, with torch <= 2.13, build "
                f"them: {compile_command()}"
            ) from error
        if not absent:
            warnings.warn(
                f"mmcv's compiled kernels do not load ({error}): most likely built against another "
                f"torch. Torchvision's take their place; to mend it (torch <= 2.13): "
                f"{compile_command()}",
                RuntimeWarning,
                stacklevel=3,
            )
    return _standin()


def _put(module: ModuleType) -> None:
    sys.modules[EXTENSION] = module
    importlib.import_module("mmcv")._ext = module  # ``from mmcv import _ext`` looks here first
    for name, loaded in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and isinstance(
            getattr(loaded, "ext_module", None), ModuleType
        ):
            loaded.ext_module = module
