"""Every change this product makes to foreign code in mmcv, mmdet and mmseg, each with its reason
and when it can go.

Imported first by ``transfer``; :func:`install` runs at import and may run again at any time.
mmengine's own faults, which pre-training meets too, are mended in
``sparc_pretrain.engine.mmengine_patches``. Importing this module imports mmcv (half a second) but
not mmdet or mmseg (ten seconds): their classes are registered by :func:`register`, or by mmengine's
registries when a config first asks for one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
from mmengine.config import utils as config_utils
from mmengine.dataset import BaseDataset

from sparc_pretrain import shipped
from sparc_pretrain.engine import mmengine_patches
from transfer.mm import annotations, images, ops
from transfer.mm.half_precision import mend_half_precision
from transfer.mm.label_maps import mend_label_maps
from transfer.mm.mean_iou import mend_mean_iou
from transfer.mm.transformers5 import mend_bert, mend_transformers

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
            :func:`transfer.mm.ops.install`).
    """
    mmengine_patches.install()
    mend_external_bases()
    name_empty_datasets()
    images.mend_loading()
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


def locate(config: str) -> str:
    """The path of a config: ``mmdet::``, ``mmseg::``, ``sparc_pretrain::NAME`` of that package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    config = shipped.located(config)
    if "::" not in config:
        return config
    package, name = config.split("::", 1)
    spec = importlib.util.find_spec(package)
    if spec is None:
        install_it = DISTRIBUTIONS.get(package, (package,))[0]
        raise FileNotFoundError(f"{config}: {package} is not installed (pip install {install_it})")
    return str(Path(spec.submodule_search_locations[0]) / ".mim" / "configs" / name)


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
        mend_transformers()
        for part in PARTS:
            _import_quietly(scope, part)
    mend_lvis()
    mend_half_precision()
    mend_label_maps()
    mend_mean_iou()
    mend_offsets()
    mend_bert()
    mend_ssd()
    mend_grounding_dino()
    check_annotations()


def mend_ssd() -> None:
    """Lets SSD predict. Idempotent.

    Reason: ``BaseDenseHead._predict_by_feat_single`` asks ``self.loss_cls``, which SSDHead, whose
    loss is a function, does not have.
    Delete when: mmdet's SSDHead has one.
    """
    module = sys.modules.get("mmdet.models.dense_heads.ssd_head")
    if module is not None and not hasattr(module.SSDHead, "loss_cls"):
        module.SSDHead.loss_cls = None


def mend_grounding_dino() -> None:
    """Lets Grounding DINO decode. Idempotent.

    Reason: onedl's DINO decoder encodes each coordinate in `embed_dims` numbers, twice as many as
    before; Grounding DINO inherits its ``forward`` but kept a head for half of them, as the
    released weights have it.
    Delete when: the two agree.
    """
    module = sys.modules.get("mmdet.models.layers.transformer.grounding_dino_layers")
    if module is not None and module.GroundingDinoTransformerDecoder.forward is not _decode:
        module.GroundingDinoTransformerDecoder.forward = _decode


def _decode(decoder: Any, *args: Any, **kwargs: Any) -> Any:
    """``DinoTransformerDecoder.forward`` with as many numbers per coordinate as the head takes."""
    module = sys.modules["mmdet.models.layers.transformer.dino_layers"]
    encode = module.coordinate_to_encoding
    numbers = decoder.ref_point_head.layers[0].in_features // 4
    module.coordinate_to_encoding = lambda points, num_feats: encode(points, num_feats=numbers)
    try:
        return module.DinoTransformerDecoder.forward(decoder, *args, **kwargs)
    finally:
        module.coordinate_to_encoding = encode


def mend_offsets() -> None:
    """Lets a modulated deformable convolution take more offsets than it has places. Idempotent.

    Reason: DyHead, and GLIP's, hand the offsets of a level to the convolution of the next, a
    quarter of its size. mmcv's compiled kernel does not look and reads the first of them in
    memory; torchvision's refuses. The released weights were trained with that reading.
    Delete when: mmdet's DyHead resizes its offsets.
    """
    module = sys.modules.get("mmcv.ops.modulated_deform_conv")
    if module is not None and module.ModulatedDeformConv2d.forward is not _forward_leading:
        module.ModulatedDeformConv2d.forward = _forward_leading


def _forward_leading(conv: Any, x: Any, offset: Any, mask: Any) -> Any:
    """Stands for ``ModulatedDeformConv2d.forward``: x [N,C,H,W]; of offset and mask each sample's
    first elements.
    """
    size = [
        (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for length, padding, dilation, kernel, stride in zip(
            x.shape[-2:], conv.padding, conv.dilation, conv.kernel_size, conv.stride, strict=True
        )
    ]
    places = size[0] * size[1]
    if offset.shape[-2] * offset.shape[-1] > places:
        offset, mask = (
            t.flatten(1)[:, : t.shape[1] * places].reshape(*t.shape[:2], *size)
            for t in (offset, mask)
        )
    return sys.modules["mmcv.ops.modulated_deform_conv"].modulated_deform_conv2d(
        x,
        offset,
        mask,
        conv.weight,
        conv.bias,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.deform_groups,
    )


def check_annotations() -> None:
    """Lets mmdet's COCO and LVIS data sets say what is wrong with their file. Idempotent.

    Reason: an LVIS file given as COCO ends in KeyError 'file_name', the reverse in 'coco_url',
    boxes without masks in KeyError 'mask' somewhere in a worker, and categories in another order
    than the config's in wrong names without a word.
    Delete when: mmdet says these things itself.
    """
    coco, lvis = (sys.modules.get(f"mmdet.datasets.{name}") for name in ("coco", "lvis"))
    if coco is None or hasattr(coco.CocoDataset.load_data_list, "checked"):
        return
    coco.CocoDataset.load_data_list = annotations.checked(coco.CocoDataset.load_data_list)
    for kind in (lvis.LVISV05Dataset, lvis.LVISV1Dataset):
        kind.load_data_list = annotations.checked_lvis(kind.load_data_list)


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
