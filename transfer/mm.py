"""Every change this product makes to foreign code in mmcv, mmdet and mmseg, each with its reason
and when it can go.

Imported first by ``transfer``; :func:`install` runs at import and may run again at any time.
mmengine's own faults, which pre-training meets too, are mended in
``sparc_pretrain.engine.foreign``. Importing this module imports mmcv (half a second) but not mmdet
or mmseg (ten seconds): their classes are registered by :func:`register`, or by mmengine's
registries when a config first asks for one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any

import numpy
from mmengine.config import utils as config_utils
from mmengine.dataset import BaseDataset

from sparc_pretrain.engine import foreign
from transfer import ops

# The part of each package whose import registers classes.
PARTS = ("models", "datasets", "engine", "evaluation", "visualization")
SCOPES = ("mmdet", "mmseg")
# Import name -> (the maintained fork's distribution, the original's).
DISTRIBUTIONS = {
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}


def install() -> None:
    """Applies every patch. Idempotent.

    Raises:
        ModuleNotFoundError: without mmcv.
        ValueError, ImportError: for a ``SPARC_MMCV_OPS`` that cannot be followed (see
            :func:`transfer.ops.install`).
    """
    foreign.install()
    mend_external_bases()
    name_empty_datasets()
    ops.install()


def mend_external_bases() -> None:
    """Makes ``_base_ = 'mmseg::...'`` and ``'mmdet::...'`` find the installed fork.

    Reason: mmengine asks for the distribution ``mmsegmentation``, the fork is
    ``onedl-mmsegmentation``; the same table feeds its ``pip install ...`` advice, and the original
    installed over the fork overwrites it. ``mmdet`` works by the accident that import name and
    distribution name were equal. Where only the original is installed, its name stays.
    Delete when: ``mmengine.config.utils.MODULE2PACKAGE`` of onedl-mmengine names the onedl
    distributions.
    """
    for module, (fork, original) in DISTRIBUTIONS.items():
        alone = _installed(original) and not _installed(fork)
        config_utils.MODULE2PACKAGE[module] = original if alone else fork


def name_empty_datasets() -> None:
    """Makes a data set without a sample say so, with its file, when it is built. Idempotent.

    Reason: mmengine's BaseDataset ends with numpy's "need at least one array to concatenate".
    Delete when: BaseDataset names the empty data set itself.
    """
    BaseDataset._serialize_data = _serialize_some


_serialize = BaseDataset._serialize_data


def _serialize_some(dataset: BaseDataset) -> Any:
    """Stands for `BaseDataset._serialize_data`; raises ValueError when there is nothing."""
    if not dataset.data_list:
        place = dataset.ann_file or dataset.data_prefix
        raise ValueError(
            f"the data set is empty: nothing in {place} passes its filter {dataset.filter_cfg}; "
            "do metainfo.classes match its categories?"
        )
    return _serialize(dataset)


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def register(*scopes: str) -> None:
    """Imports ``mmdet`` or ``mmseg`` as far as needed for all their classes to be in the
    registries, and mends what they brought with them; silent, idempotent.

    The default scope is left alone: name it in the config (``default_scope = 'mmdet'``), or write
    ``mmdet.`` before types.

    Args:
        scopes: ``"mmdet"``, ``"mmseg"`` or both.

    Raises:
        ValueError: for another scope.
        ModuleNotFoundError: where the package is not installed; the message says how to install it.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"scope {scope!r}: must be one of {', '.join(SCOPES)}")
        for part in PARTS:
            _import_quietly(scope, part)
    mend_lvis()


class _OldNumpy(ModuleType):
    """numpy with the name ``float``, which numpy 1.24 dropped."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)


def mend_lvis() -> None:
    """Lets mmdet's LVISMetric run, if mmdet's import brought ``lvis`` with it. Idempotent.

    Reason: ``lvis`` 0.5.3, the last release, says ``np.float`` in ``lvis/eval.py``.
    Delete when: a release of lvis runs on numpy 2, or mmdet evaluates LVIS without it.
    """
    module = sys.modules.get("lvis.eval")
    if module is not None and not isinstance(module.np, _OldNumpy):
        module.np = _OldNumpy("numpy")


def _import_quietly(scope: str, part: str) -> None:
    """Imports ``scope.part`` without two false alarms.

    Reason: mmdet *prints* "Could not import OneDL ..." to standard output, where a tool's JSON may
    be going, and mmcv/cnn/bricks/transformer.py warns about its own import of
    MultiScaleDeformableAttention.
    Delete when: the onedl packages log the first and drop the second (neither is of use to anybody
    here).
    """
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.filterwarnings(
                "ignore", message=".*MultiScaleDeformableAttention", category=ImportWarning
            )
            importlib.import_module(f"{scope}.{part}")
    except ModuleNotFoundError as error:
        if error.name == scope:
            install_it = f"pip install -c constraints.txt {DISTRIBUTIONS[scope][0]}"
            raise ModuleNotFoundError(
                f"{scope} is not installed: {install_it}", name=scope
            ) from error
        raise
    finally:
        for line in said.getvalue().splitlines():
            if not line.startswith("Could not import OneDL"):
                print(line)


install()
