"""Names of the built-in scenes: 36 categories by falling frequency, then 8 backgrounds (semantic
classes). The easy level has the first 12 categories.
"""

scene_things = (
    "star",
    "house",
    "car",
    "tree",
    "heart",
    "fish",
    "circle",
    "gear",
    "flower",
    "boat",
    "triangle",
    "cup",
    "moon",
    "mushroom",
    "arrow",
    "umbrella",
    "square",
    "cloud",
    "key",
    "bell",
    "butterfly",
    "leaf",
    "rocket",
    "hexagon",
    "crown",
    "drop",
    "ring",
    "diamond",
    "snowman",
    "bolt",
    "cactus",
    "cat",
    "anchor",
    "cross",
    "ghost",
    "bottle",
)
scene_backgrounds = (
    "grass",
    "sand",
    "water",
    "brick",
    "night sky",
    "wood",
    "snow",
    "tiles",
)
scene_classes = scene_things + scene_backgrounds
scene_palette = [
    [(37 * i) % 200 + 40, (91 * i) % 200 + 40, (151 * i) % 200 + 40] for i in range(44)
]
easy_things = scene_things[:12]
easy_classes = easy_things + scene_backgrounds
easy_palette = scene_palette[:20]
