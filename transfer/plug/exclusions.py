"""Models that cannot take a SparcViT, each with the line of the installed package that makes it so.

By class, not by config: a subclass, or another config of the same class, is refused as well.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

OURS = "SparcViT gives maps of one image, from one stream"


@dataclass(frozen=True)
class Exclusion:
    """Why a class cannot be plugged.

    Attributes:
        name: the class. reason: what it needs that a ViT does not have.
        module: where that is seen. needle: the line that shows it.
    """

    name: str
    reason: str
    module: str
    needle: str

    def place(self) -> str:
        """``mmdet/models/x.py:12`` in the installed package.

        Raises:
            LookupError: the package no longer holds that line, so the reason wants checking.
        """
        package = self.module.split(".")[0]
        root = Path(importlib.util.find_spec(package).submodule_search_locations[0]).parent
        path = root / Path(*self.module.split(".")).with_suffix(".py")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if self.needle in line:
                return f"{path.relative_to(root)}:{number}"
        raise LookupError(f"{path} no longer says {self.needle!r}: is {self.name} still excluded?")


MODEL_CLASSES = (
    Exclusion(
        "BaseMOTModel",
        "tracks objects through videos: its tracker and data are no detector's",
        "mmdet.models.mot.base",
        "class BaseMOTModel",
    ),
    Exclusion(
        "BaseReID",
        "compares crops for a tracker and is built on mmpretrain's image classifier",
        "mmdet.models.reid.base_reid",
        "class BaseReID",
    ),
    Exclusion(
        "Detectron2Wrapper",
        "builds a whole detectron2 model, backbone included",
        "mmdet.models.detectors.d2_wrapper",
        "class Detectron2Wrapper",
    ),
    Exclusion(
        "MultimodalEncoderDecoder",
        "owns its image encoder, a CLIP whose text tower and attention biases its head shares",
        "mmseg.models.segmentors.multimodal_encoder_decoder",
        "self.image_encoder = MODELS.build",
    ),
    Exclusion(
        "TridentFasterRCNN",
        "needs a backbone with the branches of its RoI head",
        "mmdet.models.detectors.trident_faster_rcnn",
        "assert self.backbone.num_branch",
    ),
)
BACKBONES = (
    Exclusion(
        "VPD",
        "is a diffusion model that its depth estimator conditions on text",
        "mmseg.models.backbones.vpd",
        "class VPD",
    ),
    Exclusion(
        "TridentResNet",
        "runs three branches of one stage on the image, as its RoI head expects",
        "mmdet.models.backbones.trident_resnet",
        "class TridentResNet",
    ),
    Exclusion(
        "BiSeNetV1",
        "is two-stream: a spatial path beside its context path, whose maps its heads read",
        "mmseg.models.backbones.bisenetv1",
        "self.spatial_path = SpatialPath",
    ),
    Exclusion(
        "BiSeNetV2",
        "is two-stream: a detail branch beside its semantic branch, whose stages its heads read",
        "mmseg.models.backbones.bisenetv2",
        "self.detail = DetailBranch",
    ),
    Exclusion(
        "ICNet",
        "is a cascade of three streams over the image at three sizes, which its neck fuses",
        "mmseg.models.backbones.icnet",
        "# sub 1",
    ),
    Exclusion(
        "DDRNet",
        "is two-stream, and its head is given both streams in training, their sum in testing",
        "mmseg.models.backbones.ddrnet",
        "if self.training else x_s + x_c",
    ),
    Exclusion(
        "PIDNet",
        "has three streams, and its head is given all in training, their fusion in testing",
        "mmseg.models.backbones.pidnet",
        "if self.training else out",
    ),
)
NECKS = (
    Exclusion(
        "RFP",
        "feeds its output back into the stages of ResNets that it builds itself",
        "mmdet.models.necks.rfp",
        "MODELS.build(rfp_backbone)",
    ),
)


def excluded(model: ConfigDict, owners: list[tuple[str, ConfigDict]], scope: str) -> str | None:
    """One line that says why `model` cannot be plugged, naming both sides; None if it can.

    Args:
        model: the config's model. owners: path and dict of everything in it that has a backbone.
        scope: mmdet or mmseg.
    """
    named = [("model", model, MODEL_CLASSES)]
    for path, owner in owners:
        named.append((path, owner, MODEL_CLASSES))
        named.append((f"{path}.backbone", owner.backbone, BACKBONES))
        neck = owner.get("neck")
        for part in neck if isinstance(neck, (list, tuple)) else [neck] if neck else []:
            named.append((f"{path}.neck", part, NECKS))
    for path, part, candidates in named:
        ancestors = _ancestors(part.get("type"), scope)
        for exclusion in candidates:
            if exclusion.name in ancestors:
                who = str(part.type)
                return (
                    f"{path} ({who}) cannot take SparcViT: {exclusion.name} {exclusion.reason}; "
                    f"{OURS} ({exclusion.place()})"
                )
    return None


def _ancestors(kind: object, scope: str) -> set[str]:
    """Names of the class registered as `kind` and of its bases; the bare name if there is none."""
    if not isinstance(kind, str):
        return {c.__name__ for c in getattr(kind, "__mro__", ())}
    with MODELS.switch_scope_and_registry(scope) as registry:
        try:
            found = registry.get(kind)
        except ImportError:  # a scope whose package is not installed
            found = None
    bases = {c.__name__ for c in getattr(found, "__mro__", ())}
    return bases | {kind.split(".")[-1]}
