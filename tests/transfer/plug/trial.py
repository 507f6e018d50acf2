"""Does a plugged model work? Build it, take one loss step, predict: on noise images with made-up
truth of every kind that some mm model asks for.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.ops import MaskedConv2d
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from sparc_pretrain.config_tree import dicts
from transfer import mm
from transfer.backbone.pyramid import SimplePyramid
from transfer.backbone.vit import SparcViT
from transfer.mm.norms import single_process_norms

# Numbers of a recipe, not of a head's structure, that cost seconds each.
FEWER = {"num_queries": 50, "max_per_img": 20, "nms_pre": 100, "num": 32, "max_num": 20}
FEWER["num_cp"] = 0  # blocks that are computed twice to save memory, with fairscale
SIZE = (128, 192)  # height and width of the images
# Extra levels made by unpadded convolutions, or priors at fixed places, need larger images.
SIZES = {"SSDNeck": (320, 320), "CLRFPN": (320, 800), "LRASPPHead": (400, 400)}
WORDS = ("cat", "dog", "person")  # for detectors that are told what to look for


def trial(cfg: Config, scope: str) -> dict[str, float]:
    """Build ``cfg.model``, take one loss step, predict.

    Args:
        cfg: a config after `transfer.plug`; its model is changed. scope: mmdet or mmseg.

    Returns:
        The parsed losses.

    Raises:
        ValueError: a loss or a gradient that is not finite, a part of the backbone without
            gradient, a prediction missing; and whatever the model raises.
    """
    mm.register(scope)
    with DefaultScope.overwrite_default_scope(scope), tempfile.TemporaryDirectory() as folder:
        size = shrink(cfg, folder)
        torch.manual_seed(0)
        hub = MessageHub.get_current_instance()  # what a Runner tells those that ask for the time
        for name in ("iter", "epoch"):
            hub.update_info(name, 0)
            hub.update_info(f"max_{name}s", 1)
        model = MODELS.build(cfg.model)
        model.init_weights()
        losses = step(model, batch(cfg, scope, size))
        model.eval()
        data = batch(cfg, scope, size)
        if isinstance(data["inputs"], dict):  # semi-supervised: any one branch is a whole batch
            data = {key: value["sup"] for key, value in data.items()}
        # one by one where mmcv's masked convolution takes no more, as mmdet's loaders give them
        alone = any(isinstance(module, MaskedConv2d) for module in model.modules())
        parts = [range(0, 1), range(1, 2)] if alone else [range(2)]
        with torch.no_grad():
            found = [
                sample
                for part in parts
                for sample in model.test_step({k: [v[i] for i in part] for k, v in data.items()})
            ]
        if len(found) != 2:
            raise ValueError(f"{len(found)} predictions for 2 images")
    return losses


def step(model: nn.Module, data: dict[str, Any]) -> dict[str, float]:
    """Forward and backward; returns the parsed losses. Raises as `trial` does."""
    model.train()
    if hasattr(model, "set_epoch"):  # mmdet's SetEpochInfoHook does
        model.set_epoch(0)
    prepared = model.data_preprocessor(data, True)
    total, parsed = model.parse_losses(model(**prepared, mode="loss"))
    if not torch.isfinite(total):
        raise ValueError(f"the loss is {float(total.detach())}: {parsed}")
    total.backward()
    plugged = [m for m in model.modules() if isinstance(m, SparcViT)]
    trained = [m for m in plugged if any(p.requires_grad for p in m.parameters())]
    if not trained:
        raise ValueError("no SparcViT is trained")
    teachers = [m for m in plugged if m not in trained]
    for name, part in model.named_modules():
        if part in teachers or not isinstance(part, (SparcViT, SimplePyramid)):
            continue
        wanted = [(n, p.grad) for n, p in part.named_parameters() if p.requires_grad]
        dead = [n for n, grad in wanted if grad is None]
        if dead:
            raise ValueError(f"{name}: no gradient reaches {len(dead)} weights, as {dead[0]}")
        if not all(grad.isfinite().all() for _, grad in wanted):
            raise ValueError(f"{name}: a gradient is not finite")
        if wanted and not sum(grad.abs().sum() for _, grad in wanted) > 0:
            raise ValueError(f"{name}: all gradients are zero")
    return {name: float(torch.as_tensor(value).detach()) for name, value in parsed.items()}


def shrink(cfg: Config, folder: str) -> tuple[int, int]:
    """Small images, and nothing fetched: no teacher's checkpoint, a language model of one layer
    made in `folder`. Returns height and width of the images.
    """
    size = SIZE
    proposals = "num_proposals" in (cfg.model.get("rpn_head") or {})
    for _, part in dicts(cfg.model):
        if part.get("type") in SIZES:
            size = SIZES[part.type]
        if "clip_border" in part:
            part.clip_border = True  # boxes of random weights lie far outside
        if "use_autocast" in part:
            part.use_autocast = False  # half precision, for a GPU
        if "teacher_ckpt" in part:
            part.teacher_ckpt = None
        if isinstance(part.get("size"), (tuple, list)) and "mean" in part:
            part.size = size
        if part.get("type") == "SegDataPreProcessor" and "size_divisor" not in part:
            part.size = size
        for key, value in part.items():
            if key == "max_per_img" and proposals:  # of a learnt set: all of them
                continue
            if key in FEWER and isinstance(value, int) and value > FEWER[key]:
                part[key] = FEWER[key]
            if value == "bert-base-uncased":
                part[key] = language_model(Path(folder) / "bert")
        if isinstance(part.get("init_cfg"), dict) and part.init_cfg.get("type") == "Pretrained":
            part.init_cfg = None  # a teacher's: the plugged part has none left
    single_process_norms(cfg.model)
    # images are cut or grown in batch to sizes of the recipe
    for _, part in dicts(cfg.model):
        for augment in part.get("batch_augments") or []:
            if "size" in augment:
                augment.size = size
            if "random_size_range" in augment:
                augment.random_size_range = (min(size), min(size))
    return size


def language_model(folder: Path) -> str:
    """A BERT of one layer, as wide as the base one, with its tokenizer, in `folder`."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    if not folder.exists():
        folder.mkdir(parents=True)
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(pieces))
        BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
        BertModel(BertConfig(vocab_size=len(pieces), num_hidden_layers=1)).save_pretrained(folder)
    return str(folder)


def batch(cfg: Config, scope: str, size: tuple[int, int]) -> dict[str, Any]:
    """What a dataloader gives ``data_preprocessor``: two noise images of `size`."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for _ in range(2)
    ]
    if scope == "mmseg":
        samples = [_segmented(cfg, size, generator) for _ in range(2)]
    else:
        samples = [_detected(cfg, size, i) for i in range(2)]
    whole = {"inputs": images, "data_samples": samples}
    branches = cfg.model.get("semi_train_cfg")
    if branches is None:
        return whole
    names = ("sup", "unsup_teacher", "unsup_student")
    return {key: {name: copy.deepcopy(value) for name in names} for key, value in whole.items()}


def _segmented(cfg: Config, size: tuple[int, int], generator: torch.Generator) -> Any:
    from mmseg.structures import SegDataSample

    classes = _classes(cfg.model.decode_head)
    truth = torch.randint(0, classes, (1, *size), generator=generator)
    shape = {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}
    sample = SegDataSample(metainfo={**shape, "flip": False, "img_path": "noise.png"})
    sample.gt_sem_seg = PixelData(data=truth)
    return sample


def _detected(cfg: Config, size: tuple[int, int], index: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    height, width = size
    unit = torch.tensor([width, height, width, height], dtype=torch.float)
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.7], [0.4, 0.3, 0.95, 0.9]]) * unit
    masks = np.zeros((2, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    things = min(_classes(cfg.model), len(WORDS)) if _told(cfg) else _classes(cfg.model)
    meta = {
        "img_shape": size,
        "ori_shape": size,
        "pad_shape": size,
        "batch_input_shape": size,
        "scale_factor": (1.0, 1.0),
        "img_id": index,
        "img_path": "noise.png",
        "flip": False,
        "flip_direction": None,
        "border": np.array([0, height, 0, width], np.float32),  # CenterNet's, CornerNet's
        "homography_matrix": np.eye(3, dtype=np.float32),  # of a semi-supervised branch
    }
    if _told(cfg):
        meta.update(text=" . ".join(WORDS) + " .", custom_entities=True)
    sample = DetDataSample(metainfo=meta)
    labels = torch.tensor([0, things - 1])
    truth = {"bboxes": boxes, "labels": labels}
    if _masked(cfg):
        truth["masks"] = BitmapMasks(masks, height, width)
    sample.gt_instances = InstanceData(**truth)
    if cfg.model.type == "CLRNet":  # one upright lane of 72 points and three absent
        lines = np.zeros((4, 6 + 72), np.float32)
        lines[:, 0], lines[0, :6] = 1, (0, 1, 0, width / 2, 0.5, 72)
        lines[:, 6:] = width / 2
        sample.set_metainfo({"lines_array": lines, "org_width": width, "org_height": height})
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    shifted = HorizontalBoxes(torch.cat([boxes, boxes * 0.9])).tensor
    if cfg.model.type == "FastRCNN":  # others would take them for their own
        sample.proposals = InstanceData(bboxes=shifted, scores=torch.ones(4))
    scale = _rescaled(cfg)
    sample.gt_sem_seg = PixelData(
        sem_seg=torch.zeros(1, int(height * scale), int(width * scale), dtype=torch.long)
    )
    return sample


def _classes(node: Any) -> int:
    """The smallest number of classes of a head below `node` (a region proposer's 1 aside)."""
    found = [d.num_classes for _, d in dicts(node) if isinstance(d.get("num_classes"), int)]
    found += [d.num_things_classes for _, d in dicts(node) if "num_things_classes" in d]
    return min([n for n in found if n > 1] or found or [1])


def _masked(cfg: Config) -> bool:
    """Whether the recipe loads masks; where it loads nothing, all there is to be had."""
    steps = [
        d for _, d in dicts(cfg.get("train_dataloader")) if "Annotations" in str(d.get("type"))
    ]
    return not steps or any(d.get("with_mask", "Panoptic" in d.type) for d in steps)


def _told(cfg: Config) -> bool:
    """Whether the detector reads what it looks for."""
    return "language_model" in cfg.model


def _rescaled(cfg: Config) -> float:
    """The scale at which the recipe hands the semantic map over."""
    steps = dicts(cfg.get("train_dataloader"))
    return next((d["scale_factor"] for _, d in steps if d.get("type") == "SegRescale"), 1.0)
