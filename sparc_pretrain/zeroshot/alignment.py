"""Which patches a word gathers: the grouping weights of SPARC, per word of a caption, and pictures
of them.

Suffixes: T tokens, P patches, h w the patch grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.data.images import eval_resize
from sparc_pretrain.data.tokenizer import WORD
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.sparc import group_patches
from sparc_pretrain.zeroshot.encode import PooledCosine
from sparc_pretrain.zeroshot.patch_reader import PatchReader

# Heat, from a patch's even share of the weight (clear) to the peak: dark violet to pale yellow.
HEAT = np.array([(66, 28, 110), (170, 38, 102), (236, 96, 42), (252, 180, 28), (252, 250, 164)])
FULL_COLOUR = 2.5  # even shares: a word whose peak is below this does not glow in full
ARTICLES = ("a", "an", "the")
# Words that name nothing one could point at.
FUNCTION_WORDS = frozenset(
    """a an the and or but of in on at to with from by for as up down out off into over under near
    beside behind above below left right while is are was were be being been has have had it its he
    she his her they them their there this that some one two three""".split()  # noqa: SIM905
)
FONT = cv2.FONT_HERSHEY_DUPLEX
INK, GREY, PAPER = (32, 36, 44), (110, 116, 128), 255


@dataclass(frozen=True)
class WordWeights:
    """A word of a caption: `word` = caption[start:end]; `weights` [h,w] over the patches, summing
    to 1, or all zero where no token prefers any patch; `score` the mean cosine (-1 to 1) of its
    tokens to what they gathered, the number that eq. 6 raises. pieces: tokens that the word is cut
    into; a tokenizer trained on captions has one for every word it met often.
    """

    word: str
    start: int
    end: int
    weights: Tensor
    score: float
    pieces: int = 1

    @property
    def peak(self) -> float:
        """The largest weight in even shares: 1 = no patch stands out, P = all on one patch."""
        return float(self.weights.max() * self.weights.numel())


@torch.inference_mode()
def align(
    model: DualEncoder,
    image: Tensor,
    caption: str,
    resize: str = "squash",
    objective: Objective | None = None,
    reading: str | None = None,
) -> list[WordWeights]:
    """The patches that each word of `caption` gathers in `image` (eqs. 2-4 of SPARC).

    A word's weights are the mean over its tokens; begin and end tokens belong to no word. Words
    beyond the text tower's longest caption are left out.

    Args:
        image: [3,H,W] uint8, made square as `resize` says ('squash' shows all of it, 'crop' the
            centre). The grouping is that of the model's own objective (threshold, alignment).
        objective: of the model; its `dense_patches` (PACL) says what patches pass through before
            words gather them.
        reading: what gathers: 'tokens' (in their context), 'words' (free of it) or 'phrase' (the
            embedding of each phrase alone, see `phrases`); None = the objective's `word_features`.

    Raises:
        ValueError: the image is not uint8 [3,H,W], the model has no text tower or tokenizer, or
            makes nothing of this reading.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be uint8 [3,H,W], not {image.dtype} {tuple(image.shape)}")
    if model.text is None or model.tokenizer is None:
        raise ValueError("words cannot be aligned: this run has no text tower or no tokenizer")
    pixels = eval_resize(image, model.vision.img_size, resize)[None].to(model.mean.device)
    patches = PatchReader.of(objective, "local").patches(model, pixels)
    reading = reading or (objective or PooledCosine()).word_features
    if reading == "phrase":
        units = [(caption[a:b], a, b, [n]) for n, (a, b) in enumerate(phrases(caption))]
        if not units:
            return []
        vectors = model.text_features(*model.tokenize([unit[0] for unit in units])).text[None]
    else:
        vectors = getattr(model.text_features(*model.tokenize([caption])), reading)
        if vectors is None:
            raise ValueError(f"this model has no {reading}: choose another reading")
        encoding = model.tokenizer.encode(caption, model.text.max_tokens)
        matches = WORD.finditer(caption)
        units = []
        for word, positions in model.tokenizer.words(caption, encoding):
            start, end = next(match.span() for match in matches if match.group() == word)
            units.append((word, start, end, positions))
    grouped, weight_1TP = group_patches(vectors, patches, **grouping_of(model))
    cosine_T = F.cosine_similarity(grouped, vectors.float(), dim=-1)[0].cpu()
    side = model.vision.img_size // model.vision.patch
    weight_Thw = weight_1TP[0].cpu().unflatten(-1, (side, side))
    found = []
    for word, start, end, positions in units:
        weights = weight_Thw[positions].sum(dim=0)
        weights = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        pieces = 1 if reading == "phrase" else len(positions)
        score = cosine_T[positions].mean().item()
        found.append(WordWeights(word, start, end, weights, score, pieces))
    return found


def phrases(caption: str) -> list[tuple[int, int]]:
    """(start, end) of what one could point at: runs of words between function words and marks, the
    article before them included.
    """
    found: list[list[int]] = []
    article, open_run = None, False
    for match in WORD.finditer(caption):
        word = match.group().lower()
        if word in ARTICLES:
            article, open_run = match.start(), False
        elif not any(letter.isalpha() for letter in word) or word in FUNCTION_WORDS:
            article, open_run = None, False
        elif open_run:
            found[-1][1] = match.end()
        else:
            found.append([match.start() if article is None else article, match.end()])
            article, open_run = None, True
    return [(start, end) for start, end in found]


def grouping_of(model: DualEncoder) -> dict[str, Any]:
    """How the model's objective groups patches; the paper's way where it is another objective or
    does not say.
    """
    config = model.objective_config or {}
    if str(config.get("type")).rpartition(".")[2] != "Sparc":
        return {}
    return {key: config[key] for key in ("threshold", "alignment") if key in config}


def overlay(image: np.ndarray, weights: Tensor | np.ndarray) -> np.ndarray:
    """`image` [H,W,3] uint8 under the heat of `weights` [h,w] -> [H,W,3] uint8.

    A patch with no more than the even share (1/P) of the weight stays clear and dimmed; the colour
    is full at the word's peak, or at 2.5 even shares where the peak is lower.
    """
    height, width = image.shape[:2]
    shares = np.asarray(weights, dtype=np.float32) * weights.shape[0] * weights.shape[1]
    top = max(float(shares.max()), FULL_COLOUR)
    smooth = cv2.resize(shares, (width, height), interpolation=cv2.INTER_CUBIC)
    heat_HW = np.clip((smooth - 1) / (top - 1), 0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(heat_HW, stops, HEAT[:, c]) for c in range(3)], axis=-1)
    grey = image.astype(np.float32).mean(axis=-1, keepdims=True)
    dimmed = 0.55 * (0.7 * grey + 0.3 * image) + 60
    alpha = (np.minimum(1, heat_HW * 2.5) * (0.45 + 0.2 * heat_HW))[..., None]
    lit = dimmed + (image - dimmed) * np.minimum(1, heat_HW * 2)[..., None]
    return np.clip(lit * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)


def draw(image: Tensor, words: Sequence[WordWeights], side: int = 160, gap: int = 8) -> np.ndarray:
    """One row: the photo, then a heat overlay per word with its name and its peak in even shares.

    Args:
        image: [3,H,W] uint8, as given to `align`. side: of a tile in pixels. gap: between tiles.

    Returns:
        RGB uint8, one row of len(words) + 1 tiles on white.
    """
    photo = eval_resize(image, side, "squash").permute(1, 2, 0).contiguous().numpy()
    tiles = [(photo, "", "")]
    tiles += [(overlay(photo, w.weights), w.word, f"x{w.peak:.1f}") for w in words]
    label = 26
    row = np.full((side + label, len(tiles) * (side + gap) - gap, 3), PAPER, dtype=np.uint8)
    for i, (tile, word, peak) in enumerate(tiles):
        left = i * (side + gap)
        row[:side, left : left + side] = tile
        right = left + side - cv2.getTextSize(peak, FONT, 0.36, 1)[0][0]
        room = right - left - 6 if peak else side
        word = word.encode("ascii", "replace").decode()  # cv2's fonts hold no other letters
        wide = max(1, cv2.getTextSize(word, FONT, 0.5, 1)[0][0])
        size, baseline = 0.5 * min(1, room / wide), side + 18
        cv2.putText(row, word, (left, baseline), FONT, size, INK, 1, cv2.LINE_AA)
        cv2.putText(row, peak, (right, baseline), FONT, 0.36, GREY, 1, cv2.LINE_AA)
    return row
