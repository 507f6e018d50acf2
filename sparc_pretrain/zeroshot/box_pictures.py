"""Pictures of grounding: on the left the boxes that phrases mean, on the right those that a model
predicts, and below what it thinks of the own caption and of the one that it confuses most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sparc_pretrain.data.images import eval_resize
from sparc_pretrain.data.sets.phrases import PhraseImage
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.types import ImageFeatures
from sparc_pretrain.zeroshot import encode, grounding
from sparc_pretrain.zeroshot.box_reading import predicted

SIDE, LINE, MARGIN = 320, 18, 8  # pixels: of a picture, of a line of text, round both
MOST = 6  # phrases of a picture
PAPER, INK, GREY = (255, 255, 255), (24, 32, 43), (90, 98, 112)
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14), INK)


@torch.inference_mode()
def pictures(
    model: DualEncoder, objective: Objective, data: Sequence[PhraseImage]
) -> dict[str, np.ndarray]:
    """File name -> [H,W,3] uint8 of each image with phrases. Raises ValueError for a model that
    predicts no boxes.
    """
    if objective.ground is None:
        raise ValueError(f"--pictures: {type(objective).__name__} predicts no boxes")
    shown = [item for item in data if item.phrases]
    seen = [encode.open_image(item.file) for item in shown]
    small = torch.stack([eval_resize(image, model.vision.img_size, "squash") for image in seen])
    features = objective.read_images(model, small.to(model.mean.device))
    captions = [max((p.sentence for p in item.phrases), key=len) for item in shown]
    judged = _judged(model, objective, features, captions)
    found = {}
    for row, (item, image) in enumerate(zip(shown, seen, strict=True)):
        first = {phrase.text: phrase for phrase in reversed(item.phrases)}
        phrases = list(first.values())[:MOST]
        names = [phrase.text for phrase in phrases]
        boxes = predicted(model, objective, image, names)
        truth = [grounding.union_box(p.boxes.double()) for p in phrases]
        found[item.file.stem] = picture(image, names, truth, boxes, judged[row])
    return found


def picture(
    image: Tensor, names: Sequence[str], truth: Sequence[Tensor], boxes: Tensor, judged: list[str]
) -> np.ndarray:
    """Two halves of equal width -> [H,W,3] uint8.

    Args: image: [3,H,W] uint8. names: of the phrases. truth, boxes: [4] and [n,4], x0 y0 x1 y1 in
        pixels of the image. judged: lines below.
    """
    scale = SIDE / max(image.shape[-2:])
    width, height = round(image.shape[-1] * scale), round(image.shape[-2] * scale)
    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize((width, height))
    half = SIDE + 2 * MARGIN
    lines = max(len(names) + 1, len(names) + len(judged))
    page = Image.new("RGB", (2 * half, height + 2 * MARGIN + LINE * (lines + 1)), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    below = height + 2 * MARGIN
    for column, (title, own) in enumerate((("truth", truth), ("predicted, IoU", boxes))):
        left = column * half + MARGIN
        page.paste(photo, (left, MARGIN))
        pen.text((left, below), title, GREY, font)
        for number, (name, box) in enumerate(zip(names, own, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            x0, y0, x1, y1 = (box * scale).clamp(0, SIDE).tolist()
            corners = (left + x0, MARGIN + y0, left + max(x0, x1), MARGIN + max(y0, y1))
            pen.rectangle(corners, outline=colour, width=2)
            share = grounding.box_iou(boxes[number], truth[number])
            said = f"{name}  {share:.2f}" if column else name
            pen.text((left, below + LINE * (number + 1)), said[:48], colour, font)
    for number, line in enumerate(judged):
        at = (MARGIN, below + LINE * (len(names) + 1 + number))
        pen.text(at, line[:100], INK, font)
    return np.asarray(page)


def _judged(
    model: DualEncoder, objective: Objective, features: ImageFeatures, captions: Sequence[str]
) -> list[list[str]]:
    """Of each image two lines: its own caption and the one of another that is nearest to it, with
    the log-odds that they match; nothing of a model that cannot tell.
    """
    if objective.match is None or not objective.shares_space or len(captions) < 2:
        return [[] for _ in captions]
    text = model.text_features(*model.tokenize(list(captions)))
    scores = objective.scores(features, text)
    same = torch.tensor([[a == b for b in captions] for a in captions], device=scores.device)
    hard = scores.masked_fill(same, -torch.inf).argmax(dim=1)
    rows = torch.arange(len(captions), device=hard.device)
    image = ImageFeatures(None, None, features.patch_states)
    odds = [objective.match(image, _rows(text, which)).tolist() for which in (rows, hard)]
    return [
        [f"{own:+.1f}  own: {captions[row]}", f"{other:+.1f}  hard: {captions[hard[row]]}"]
        for row, (own, other) in enumerate(zip(*odds, strict=True))
    ]


def _rows(text: object, which: Tensor) -> object:
    return type(text)(**{k: v if v is None else v[which] for k, v in vars(text).items()})
