"""Pictures of what single-stream models and X-VLM do with held-out pairs: UNITER's transport plan,
Kaleido-BERT's 55 patches and what was done to them, X-VLM's hard negatives.

Each has two halves of equal width: on the left what is, on the right what the model makes of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives import kaleido, uniter, xvlm
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.mosaic import LEVELS, ORDERS, SLICES
from sparc_pretrain.types import Batch, ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot.box_pictures import COLOURS, GREY, INK, LINE, MARGIN, PAPER, SIDE
from sparc_pretrain.zeroshot.terms import pairs

CELL, GAP = 104, 4  # pixels of a level's mosaic and between them: three beside each other
LABEL = 100  # pixels for a word before its row of the plan
RED, BLANK = COLOURS[0], 127
DEEP = np.array(COLOURS[1], dtype=np.float64)  # of a cell with all of a word's mass
Line = tuple[str, tuple[int, int, int]]


@torch.no_grad()
def pictures(
    model: DualEncoder,
    objective: Objective,
    shards: str,
    numbers: dict[str, int],
    count: int,
    batch_size: int = 64,
    caption: str = "any",
) -> dict[str, np.ndarray]:
    """Name -> [H,W,3] uint8 of the first pairs; nothing of an objective without such pictures.

    Args: see `run.evaluate`. count: at most so many.
    """
    draw = DRAWN.get(type(objective))
    if draw is None:
        return {}
    data = pairs.dataset_of(model, objective, shards, numbers, caption)
    batch = pairs.batches(data, min(batch_size, len(data)), 0)[0].to(model.mean.device)
    batch.views = objective.views(batch, 0)
    drawn = draw(model, objective, batch, count)
    return {f"{type(objective).__name__.lower()}_{n:02d}": one for n, one in enumerate(drawn)}


def plans(
    model: DualEncoder, objective: uniter.Uniter, batch: Batch, count: int
) -> list[np.ndarray]:
    """The regions with their numbers, and the plan as words x regions, each word's mass in all."""
    batch = batch.rows(slice(0, count))
    image = model.image_features(batch.image)
    image.regions = batch.regions
    text = model.text_features(batch.ids, batch.mask, batch.special)
    plan, seen = objective.plan(image, text)
    found = []
    for row, caption in enumerate(batch.caption):
        encoding = model.tokenizer.encode(caption, model.text.max_tokens)
        words = model.tokenizer.words(caption, encoding)
        there = seen.valid[row]
        mass = torch.stack([plan[row][places].sum(dim=0)[there] for _, places in words])
        mass = (mass / mass.sum(dim=1, keepdim=True)).cpu()
        photo = _photo(batch.image[row])
        boxed(photo, seen.box[row][there])
        table = plan_table(mass, [word for word, _ in words])
        says = [(f"transport plan: {len(words)} words x {mass.shape[1]} regions", GREY)]
        found.append(sheet((photo, [(caption, INK)]), (table, says)))
    return found


def plan_table(mass: Tensor, words: Sequence[str]) -> Image.Image:
    """Shares [W,R] of each word's mass as cells, darker for more; its largest has a frame."""
    table = Image.new("RGB", (SIDE, LINE * (len(words) + 1)), PAPER)
    pen, font = ImageDraw.Draw(table), ImageFont.load_default(12)
    width = (SIDE - LABEL) / max(1, mass.shape[1])
    for column in range(mass.shape[1]):
        if width >= LINE or column % 5 == 4 or column == 0:
            pen.text((LABEL + column * width + 2, 1), str(column + 1), GREY, font)
    for row, word in enumerate(words):
        top = LINE * (row + 1)
        pen.text((0, top + 1), word[:16], INK, font)
        for column, share in enumerate(mass[row].tolist()):
            shade = tuple(int(v) for v in 255 - (255 - DEEP) * share**0.5)
            left = LABEL + column * width
            corners = (left, top, left + width - 1, top + LINE - 2)
            best = column == int(mass[row].argmax())
            pen.rectangle(corners, fill=shade, outline=RED if best else None)
    return table


def mosaics(
    model: DualEncoder, objective: kaleido.Kaleido, batch: Batch, count: int
) -> list[np.ndarray]:
    """The patches of each level as they are, and as the model gets them, changed ones framed."""
    drawn, found = batch.views.drawn, []
    for row in drawn["match"].nonzero()[:, 0].tolist()[:count]:
        one = batch.rows(slice(row, row + 1))
        clean, got = _blank_page(), _blank_page()
        for level in range(1, LEVELS + 1):
            own = objective.cut(one.image, one.views.drawn["boxes"], level)[0]
            given = one.views.images[f"level{level}"][0].clone()
            changed = _changed(one, level)
            if level == LEVELS:
                given[changed] = BLANK
            _paste(clean, tiled(own), level, [])
            _paste(got, tiled(given), level, changed.nonzero()[:, 0].tolist())
        turns = 90 * int(drawn["turns"][row])
        says = f"1 turned by {turns} degrees, 2 shuffled, 3 one of another, 4 grey, 5 blank"
        found.append(sheet((clean, [(batch.caption[row], INK)]), (got, [(says, GREY)])))
    return found


def tiled(tiles: Tensor) -> Tensor:
    """Patches [n*n,3,s,s], row by row, -> one picture [3,n*s,n*s]."""
    side = round(len(tiles) ** 0.5)
    return tiles.unflatten(0, (side, side)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _changed(one: Batch, level: int) -> Tensor:
    """Which patches of a level are not as they were, [n*n] bool, of a batch of one."""
    drawn = one.views.drawn
    hidden = drawn["patches"][0, SLICES[level - 1]].cpu()
    if level == 1:
        return torch.tensor([bool(drawn["turns"][0] > 0)])
    if level == 2:
        order = ORDERS[int(drawn["order"][0])]
        return torch.tensor([place != own for place, own in enumerate(order)])
    if level == 3:
        return torch.arange(9) == drawn["place"][0].cpu()
    return hidden


def negatives(
    model: DualEncoder, objective: xvlm.Xvlm, batch: Batch, count: int
) -> list[np.ndarray]:
    """An image with its caption, and the image of the batch that is most like that caption, each
    with what the model says of own and hardest captions: log-odds that they belong together.
    """
    image = model.image_features(batch.image)
    text = model.text_features(batch.ids, batch.mask, batch.special)
    scores, said = objective.scores(image, text), batch.caption
    same = batch.image_id[:, None] == batch.image_id
    same = same | torch.tensor([[a == b for b in said] for a in said], device=same.device)
    scores = scores.masked_fill(same, -torch.inf)
    rows = torch.arange(len(said), device=same.device)
    hard_text, hard_image = scores.argmax(dim=1), scores.argmax(dim=0)

    def odds(images: Tensor, texts: Tensor) -> list[float]:
        shown = ImageFeatures(None, None, image.patch_states[images])
        states = text.token_states[texts]
        words = TextFeatures(None, None, text.mask[texts], text.special[texts], states)
        return objective.match(shown, words).tolist()

    own, wrong_text, wrong_image = odds(rows, rows), odds(rows, hard_text), odds(hard_image, rows)
    found = []
    for row in range(min(count, len(said))):
        if same[row].all():
            continue
        left = [
            (f"{own[row]:+.1f}  own: {said[row]}", INK),
            (f"{wrong_text[row]:+.1f}  hard text: {said[hard_text[row]]}", RED),
        ]
        right = [(f"{wrong_image[row]:+.1f}  hard image, with the caption of the left one", RED)]
        photos = [_photo(batch.image[n]) for n in (row, int(hard_image[row]))]
        found.append(sheet((photos[0], left), (photos[1], right)))
    return found


DRAWN: dict[type[Objective], Callable[..., list[np.ndarray]]] = {
    xvlm.Xvlm: negatives,
    uniter.Uniter: plans,
    kaleido.Kaleido: mosaics,
}


def sheet(*columns: tuple[Image.Image, Sequence[Line]]) -> np.ndarray:
    """Pictures of SIDE pixels beside each other with lines below them -> [H,W,3] uint8."""
    half = SIDE + 2 * MARGIN
    lines = [[part for line in said for part in _folded(*line)] for _, said in columns]
    below = max(photo.height for photo, _ in columns) + 2 * MARGIN
    page = Image.new("RGB", (half * len(columns), below + LINE * (max(map(len, lines)) + 1)), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for column, ((photo, _), said) in enumerate(zip(columns, lines, strict=True)):
        left = column * half + MARGIN
        page.paste(photo, (left, MARGIN))
        for number, (line, colour) in enumerate(said):
            pen.text((left, below + LINE * number), line, colour, font)
    return np.asarray(page)


def _folded(text: str, colour: tuple[int, int, int], width: int = 46) -> list[Line]:
    return [(line, colour) for line in textwrap.wrap(text, width)]


def boxed(photo: Image.Image, boxes: Tensor) -> None:
    """Boxes [R,4] in 0..1 with their numbers, in place."""
    pen, font = ImageDraw.Draw(photo), ImageFont.load_default(13)
    for number, box in enumerate((boxes * SIDE).tolist()):
        colour = COLOURS[number % len(COLOURS)]
        pen.rectangle((*box[:2], max(box[0], box[2] - 1), max(box[1], box[3] - 1)), outline=colour)
        pen.text((box[0] + 2, box[1] + 1), str(number + 1), colour, font)


def _photo(image: Tensor, side: int = SIDE) -> Image.Image:
    """[3,h,w] uint8 -> a square picture."""
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(pixels).resize((side, side))


def _blank_page() -> Image.Image:
    return Image.new("RGB", (SIDE, 2 * CELL + GAP), PAPER)


def _paste(page: Image.Image, pixels: Tensor, level: int, framed: Sequence[int]) -> None:
    """A level's mosaic in its place of a page, frames round some of its patches."""
    left, top = ((level - 1) % 3 * (CELL + GAP), (level - 1) // 3 * (CELL + GAP))
    page.paste(_photo(pixels, CELL), (left, top))
    pen, side = ImageDraw.Draw(page), CELL / level
    for one in framed:
        x, y = left + one % level * side, top + one // level * side
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline=RED, width=2)
