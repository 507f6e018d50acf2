"""How hard the built-in scenes are: what is drawn, how large, how many, and what captions say.

`hard` are the scenes as they always were: silhouettes alone tell categories, and a training of
minutes learns none of them. On `easy` a category has a typical pattern and typical parts, as things
in the world have, on `default` the parts alone; colours, places and backgrounds stay free of it.
`product` is `easy` with one object that fills the picture, as a shop shows what it sells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from sparc_pretrain.data.scenes.shapes import CATEGORIES


@dataclass(frozen=True)
class Level:
    """One level.

    categories     the first ones of CATEGORIES, so that a category has one id on every level
    decay          each category is that much rarer than the one before it (1: all alike)
    counts         number of objects -> weight
    sizes          name -> longer side of an object as a share of the frame; gaps between them keep
                   the words unambiguous
    size_weights   of these
    accent         the second colour and the parts of an object have its category's own colour
    pattern        and its texture is its category's own pattern, in place of a free texture
    short          captions of few words, without sizes, textures and numbers
    """

    name: str
    categories: tuple[str, ...]
    decay: float
    counts: dict[int, int]
    sizes: dict[str, tuple[float, float]]
    size_weights: tuple[int, ...]
    accent: bool = False
    pattern: bool = False
    short: bool = False

    @property
    def tail(self) -> list[float]:
        """Cumulative weights of the categories."""
        return list(accumulate(self.decay**rank for rank in range(len(self.categories))))

    @property
    def fewest(self) -> int:
        """The fewest objects of a scene."""
        return min(self.counts)


EASY = Level(
    "easy",
    CATEGORIES[:12],
    1.0,
    {1: 1, 2: 1, 3: 1},
    {"large": (0.34, 0.62)},
    (1,),
    accent=True,
    pattern=True,
    short=True,
)
LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        EASY,
        replace(EASY, name="product", counts={1: 1}, sizes={"large": (0.55, 0.8)}),
        Level(
            "default",
            CATEGORIES[:24],
            0.92,
            {2: 3, 3: 4, 4: 3},
            {"small": (0.22, 0.27), "medium": (0.33, 0.39), "large": (0.46, 0.54)},
            (2, 4, 4),
            accent=True,
        ),
        Level(
            "hard",
            CATEGORIES,
            0.85,
            {2: 3, 3: 4, 4: 4, 5: 3, 6: 2, 7: 2},
            {"small": (0.18, 0.23), "medium": (0.30, 0.35), "large": (0.42, 0.49)},
            (4, 4, 3),
        ),
    )
}
HARD = LEVELS["hard"]


def level_of(name: str) -> Level:
    """The level of a name. Raises ValueError for an unknown one."""
    if name not in LEVELS:
        raise ValueError(f"no level {name!r} of scenes: use one of {', '.join(LEVELS)}")
    return LEVELS[name]
