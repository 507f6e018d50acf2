"""One scene: what is in it, where, and how the picture, the masks and the captions come about."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from random import Random

import cv2
import numpy as np

from sparc_pretrain.data.scenes.captions import (
    ObjectFact,
    Relation,
    SceneFacts,
    short_captions,
    write_captions,
)
from sparc_pretrain.data.scenes.levels import HARD, Level, level_of
from sparc_pretrain.data.scenes.paint import (
    BACKGROUNDS,
    COLOURS,
    TEXTURES,
    paint_background,
    paint_object,
)
from sparc_pretrain.data.scenes.shapes import CATEGORIES, draw_shape
from sparc_pretrain.data.scenes.typical import TYPICAL

SIZES = HARD.sizes
SEMANTIC_CLASSES: tuple[str, ...] = CATEGORIES + BACKGROUNDS  # of `hard`; class k is label k + 1
SMALLEST_FRAME, LARGEST_FRAME = 48, 2048

_LEAST_VISIBLE = 0.5  # an object that would hide more of another is placed elsewhere
_TRIES = 15
_NEAR = 0.2  # share of objects placed close to an earlier one, so that occlusion is common
_CLEAR = 0.12  # centres differ by that share of the frame before left, right, above, below are said
_OVERLAP = 0.1  # share of an object's silhouette under another one before "in front of" is said


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of a scene; later objects of the list lie in front of earlier ones.

    category    index into CATEGORIES
    centre      (x, y) of the middle of `box`, pixels
    box         (x, y, width, height) of the visible mask, whole pixels
    mask        [H,W] bool, what is visible
    silhouette  [H,W] bool, the whole object, hidden parts included
    """

    category: int
    colour: str
    texture: str
    size: str
    centre: tuple[float, float]
    box: tuple[int, int, int, int]
    mask: np.ndarray
    silhouette: np.ndarray

    @property
    def name(self) -> str:
        """The category in words."""
        return CATEGORIES[self.category]

    @property
    def visible_fraction(self) -> float:
        """The share of the silhouette that later objects leave, in 0..1."""
        return np.count_nonzero(self.mask) / np.count_nonzero(self.silhouette)


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene.

    image       [H,W,3] uint8 RGB
    background  one of BACKGROUNDS
    semantic    [H,W] uint8, label k + 1 for class k of the level's categories and then BACKGROUNDS
                (on `hard` SEMANTIC_CLASSES): the category on objects, the background elsewhere; 0
                on rim pixels that an object shares with what is behind it
    captions    five, see `write_captions`
    """

    image: np.ndarray
    objects: list[SceneObject]
    background: str
    semantic: np.ndarray
    captions: list[str]


@dataclass(frozen=True, eq=False)
class _Sprite:
    """An object before it has a place: `cover` and `alpha` as `draw_shape` gives them."""

    category: int
    colour: str
    texture: str
    size: str
    extent: float
    cover: np.ndarray
    alpha: np.ndarray
    solid: np.ndarray
    phase: float


def _make_sprite(random: Random, size: int, margin: int, level: Level) -> _Sprite:
    category = random.choices(range(len(level.categories)), cum_weights=level.tail)[0]
    name = random.choices(tuple(level.sizes), level.size_weights)[0]
    extent = random.uniform(*level.sizes[name]) * size
    outline = 0.009 * size * (1.0 if name != "small" else 0.8)
    cover, alpha = draw_shape(
        CATEGORIES[category],
        extent - 2 * outline,
        random.uniform(-14, 14),
        random.random() < 0.5,
        outline,
        margin,
    )
    return _Sprite(
        category,
        random.choice(tuple(COLOURS)),
        TYPICAL if level.pattern else random.choice(TEXTURES),
        name,
        extent,
        cover,
        alpha,
        alpha[margin:-margin, margin:-margin] >= 0.5,
        random.uniform(0, 6.28),
    )


def _propose(
    random: Random, sprite: _Sprite, placed: list[tuple[_Sprite, tuple[int, int]]], size: int
) -> tuple[int, int]:
    """A place, (x,y) of the corner of `solid`, inside the frame."""
    height, width = sprite.solid.shape
    if placed and random.random() < _NEAR:
        other, (x, y) = random.choice(placed)
        reach = 0.4 * (other.extent + sprite.extent)
        x += (other.solid.shape[1] - width) / 2 + random.uniform(-reach, reach)
        y += (other.solid.shape[0] - height) / 2 + random.uniform(-reach, reach)
    else:
        x, y = random.uniform(0, size - width), random.uniform(0, size - height)
    return round(min(max(x, 0), size - width)), round(min(max(y, 0), size - height))


def _place(
    random: Random, size: int, margin: int, level: Level
) -> list[tuple[_Sprite, tuple[int, int]]]:
    """Sprites and their places, so that each stays visible in a good part."""
    wanted = random.choices(tuple(level.counts), tuple(level.counts.values()))[0]
    placed: list[tuple[_Sprite, tuple[int, int]]] = []
    owner = np.zeros((size, size), np.uint8)  # which object is seen, from 1; 0 is the background
    visible, area = [0], [0]
    while len(placed) < wanted:
        sprite = _make_sprite(random, size, margin, level)
        height, width = sprite.solid.shape
        for _ in range(_TRIES):
            x, y = _propose(random, sprite, placed, size)
            view = owner[y : y + height, x : x + width]
            lost = np.bincount(view[sprite.solid], minlength=len(visible))
            left = [v - n for v, n in zip(visible, lost.tolist(), strict=True)]
            if all(v >= _LEAST_VISIBLE * a for v, a in zip(left[1:], area[1:], strict=True)):
                placed.append((sprite, (x, y)))
                view[sprite.solid] = len(placed)
                area.append(np.count_nonzero(sprite.solid))
                visible = [*left, area[-1]]
                break
        else:
            if len(placed) >= level.fewest:  # a crowded frame: fewer objects than wanted
                break
    return placed


def render_scene(seed: int, index: int, size: int = 128, level: str = "hard") -> Scene:
    """Scene number `index` of the family `seed`, `size` x `size` pixels, see `levels`.

    A function of its arguments alone: the same bytes whatever else is rendered, in any order and
    process. Objects are drawn in full inside the frame and each keeps at least half of it visible.
    Raises ValueError when an argument is out of range.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    if not SMALLEST_FRAME <= size <= LARGEST_FRAME:
        raise ValueError(f"size must be {SMALLEST_FRAME} to {LARGEST_FRAME} pixels, got {size}")
    how = level_of(level)
    random = Random(f"scene {seed} {index}" if how is HARD else f"{level} scene {seed} {index}")
    noise = np.random.default_rng([seed, index])
    margin = round(0.06 * size)
    background = random.choice(BACKGROUNDS)
    placed = _place(random, size, margin, how)

    picture = paint_background(background, size, noise)
    # objects at the edge cast shadows beyond it
    picture = cv2.copyMakeBorder(picture, *[margin] * 4, cv2.BORDER_REPLICATE)
    stuff = len(how.categories) + 1 + BACKGROUNDS.index(background)
    semantic = np.full((size, size), stuff, np.uint8)
    owner = np.zeros((size, size), np.uint8)
    silhouettes = np.zeros((len(placed), size, size), bool)
    for number, (sprite, (x, y)) in enumerate(placed):
        colour = np.array(COLOURS[sprite.colour], np.float32) + random.uniform(-8, 8)
        period = 0.1 * size if how.pattern else 0.03 * size + 0.09 * sprite.extent
        paint_object(
            picture,
            sprite.cover,
            sprite.alpha,
            (x, y),
            colour,
            sprite.texture,
            period,
            sprite.phase,
            sprite.category if how.accent else None,
        )
        spot = (slice(y, y + sprite.solid.shape[0]), slice(x, x + sprite.solid.shape[1]))
        cover = sprite.alpha[margin:-margin, margin:-margin]
        semantic[spot][cover > 0.2] = 0
        semantic[spot][cover > 0.8] = sprite.category + 1
        owner[spot][sprite.solid] = number + 1
        silhouettes[number][spot] = sprite.solid

    objects = []
    for number, (sprite, _) in enumerate(placed):
        mask = owner == number + 1
        x, y, width, height = box = cv2.boundingRect(mask.view(np.uint8))
        objects.append(
            SceneObject(
                sprite.category,
                sprite.colour,
                sprite.texture,
                sprite.size,
                (x + width / 2, y + height / 2),
                box,
                mask,
                silhouettes[number],
            )
        )
    inner = picture[margin:-margin, margin:-margin]
    image = np.clip(inner + 0.5, 0, 255).astype(np.uint8)
    write = short_captions if how.short else write_captions
    captions = write(_facts(background, objects), random)
    return Scene(image, objects, background, semantic, captions)


def _facts(background: str, objects: list[SceneObject]) -> SceneFacts:
    size = objects[0].mask.shape[0]
    words = tuple(
        ObjectFact(o.name, o.size, o.colour, o.texture, int(np.count_nonzero(o.mask)))
        for o in objects
    )
    whole = [np.count_nonzero(o.silhouette) for o in objects]
    relations = []
    for i, j in combinations(range(len(objects)), 2):
        right, down = (b - a for a, b in zip(objects[i].centre, objects[j].centre, strict=True))
        # the longer of the two offsets names the relation; both, when they are about equal
        if abs(right) >= max(_CLEAR * size, 0.9 * abs(down)):
            a, b = (i, j) if right > 0 else (j, i)
            relations += [Relation(a, "left of", b), Relation(b, "right of", a)]
        if abs(down) >= max(_CLEAR * size, 0.9 * abs(right)):
            a, b = (i, j) if down > 0 else (j, i)
            relations += [Relation(a, "above", b), Relation(b, "below", a)]
        if np.count_nonzero(objects[j].mask & objects[i].silhouette) >= _OVERLAP * whole[i]:
            relations += [Relation(j, "in front of", i), Relation(i, "behind", j)]
    return SceneFacts(background, words, tuple(relations))


def caption_facts(scene: Scene) -> SceneFacts:
    """All that is true of `scene` and may be said: objects in painting order, and relations.

    left of, right of, above, below: the boxes' centres differ clearly, along the main direction;
    in front of, behind: one visibly covers a tenth or more of the other's silhouette.
    """
    return _facts(scene.background, scene.objects)
