"""Writes built-in scenes as files that public tools read: COCO, LVIS v1, ADE20K, COCO captions.

images/{train,val}/NNNNNN.jpg          the number is the scene's index and the image id
annotations/instances_{train,val}.json   COCO; every object is annotated
annotations/lvis_v1_{train,val}.json     LVIS v1; the counts in both are those of train
annotations/captions_{train,val}.json    COCO captions, five per image
annotations/phrases_{train,val}.json     what the captions' phrases mean, with boxes and masks, as
                                         Flickr30k Entities has it
annotations/elements_{train,val}.json    the objects as elements with texts, see `data.elements`
annotations/vqa_{train,val}.json         questions and answers in the VQA format
annotations/nlvr_{train,val}.jsonl       statements about two images, as NLVR2 has them
ade/images/{training,validation}/NNNNNN.jpg       hard links to images
ade/annotations/{training,validation}/NNNNNN.png  0 = unlabelled rim, k = line k of the classes
ade/classes.txt, ade/classes.json      categories, then backgrounds; the json adds a palette
scenes.json                            the arguments and the counts, written last
"""

from __future__ import annotations

import colorsys
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from sparc_pretrain.data.scenes.annotations import (
    Json,
    coco_annotations,
    coco_categories,
    lvis_categories,
    lvis_images,
)
from sparc_pretrain.data.scenes.elements import sample_record
from sparc_pretrain.data.scenes.levels import HARD, Level, level_of
from sparc_pretrain.data.scenes.paint import BACKGROUNDS
from sparc_pretrain.data.scenes.phrases import phrase_record
from sparc_pretrain.data.scenes.questions import Facts, statements, vqa_file
from sparc_pretrain.data.scenes.render import caption_facts, render_scene

VAL_START = 500_000  # val has its own scene indices, so that neither split depends on the other
VERSION = 1  # of the drawings: raise it when the same arguments give other bytes
_ADE_NAMES = {"train": "training", "val": "validation"}
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 93),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 4]
_UNFINISHED = "scenes.unfinished.json"


def _write_json(path: Path, value: Json | list[Json]) -> None:
    _write_text(path, [json.dumps(value)])


def _write_text(path: Path, lines: Iterable[str]) -> None:
    """Whole or not at all."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text("\n".join(lines), encoding="utf-8")
    os.replace(draft, path)


def level_in(arguments: Json) -> Level:
    """The level of a scenes.json's arguments; those of before there were levels are hard ones."""
    return level_of(arguments.get("level", HARD.name))


def _read_json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); delete its folder or choose another"
        ) from None
    return value if isinstance(value, dict) else {}


def _encode(suffix: str, picture: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, picture, options)
    if not done:
        raise OSError(f"cv2 could not encode a {suffix} image of shape {picture.shape}")
    return data.tobytes()


def encode_jpeg(image: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB as the JPEG that `write_scenes` stores."""
    return _encode(".jpg", image[..., ::-1], _JPEG)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no links."""
    if target.is_symlink() or target.exists():
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        try:
            target.symlink_to(os.path.relpath(source, target.parent))
        except OSError:
            shutil.copyfile(source, target)


def _write_split(
    out: Path, split: str, indices: range, arguments: Json, tick: Callable[[], None]
) -> tuple[list[Json], list[Json]]:
    """Writes images, semantic maps, COCO instances and captions; returns images and objects."""
    images, objects, captions, phrases, elements, facts = [], [], [], [], [], []
    image_folder, ade_images, ade_maps = _folders(out, split)
    size, level = arguments["size"], level_in(arguments)
    for index in indices:
        scene = render_scene(arguments["seed"], index, size, level.name)
        name = f"{index:06d}"
        jpeg = image_folder / f"{name}.jpg"
        jpeg.write_bytes(encode_jpeg(scene.image))
        _link(jpeg, ade_images / jpeg.name)
        (ade_maps / f"{name}.png").write_bytes(_encode(".png", scene.semantic, _PNG))
        images.append({"id": index, "file_name": jpeg.name, "height": size, "width": size})
        objects += coco_annotations(scene, index, len(objects) + 1)
        phrases.append(phrase_record(scene, index, jpeg.name))
        elements.append(sample_record(scene, index, jpeg.name))
        facts.append((index, jpeg.name, caption_facts(scene)))
        for text in scene.captions:
            captions.append({"id": len(captions) + 1, "image_id": index, "caption": text})
        tick()
    folder = out / "annotations"
    instances = {"annotations": objects, "categories": coco_categories(level.categories)}
    _write_json(folder / f"instances_{split}.json", _head(split, images) | instances)
    texts = {"type": "captions", "annotations": captions}
    _write_json(folder / f"captions_{split}.json", _head(split, images) | texts)
    _write_json(folder / f"phrases_{split}.json", phrases)
    _write_json(folder / f"elements_{split}.json", elements)
    _write_questions(folder, split, facts, arguments)
    return images, objects


def _write_questions(folder: Path, split: str, facts: Facts, arguments: Json) -> None:
    seed = f"{level_in(arguments).name} {arguments['seed']} {split}"
    _write_json(folder / f"vqa_{split}.json", vqa_file(facts, seed))
    _write_text(folder / f"nlvr_{split}.jsonl", map(json.dumps, statements(facts, seed)))


def _add_later_files(out: Path, arguments: Json) -> None:
    """The files of a data set that was written before there were any; nothing else is touched."""
    how = arguments["size"], level_in(arguments).name
    for split, first in (("train", 0), ("val", VAL_START)):
        scenes = range(first, first + arguments[split])
        for kind, record in (("phrases", phrase_record), ("elements", sample_record)):
            path = out / "annotations" / f"{kind}_{split}.json"
            if path.is_file():
                continue
            rendered = ((i, render_scene(arguments["seed"], i, *how)) for i in scenes)
            _write_json(path, [record(scene, i, f"{i:06d}.jpg") for i, scene in rendered])
        folder = out / "annotations"
        if not (folder / f"nlvr_{split}.jsonl").is_file():
            rendered = ((i, render_scene(arguments["seed"], i, *how)) for i in scenes)
            facts = [(i, f"{i:06d}.jpg", caption_facts(scene)) for i, scene in rendered]
            _write_questions(folder, split, facts, arguments)


def _head(split: str, images: list[Json]) -> Json:
    info = {"description": f"built-in scenes, {split}", "version": str(VERSION)}
    return {"info": info, "licenses": [], "images": images}


def _write_classes(folder: Path, level: Level) -> None:
    classes = level.categories + BACKGROUNDS
    palette = [
        [round(255 * c) for c in colorsys.hsv_to_rgb(k * 0.618034 % 1, 0.85 - k % 3 * 0.25, 0.95)]
        for k in range(len(classes))
    ]
    (folder / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    _write_json(
        folder / "classes.json",
        {
            "classes": classes,
            "palette": palette,
            "things": len(level.categories),
            "stuff": len(BACKGROUNDS),
        },
    )


def _folders(out: Path, split: str) -> list[Path]:
    ade = out / "ade"
    name = _ADE_NAMES[split]
    return [out / "images" / split, ade / "images" / name, ade / "annotations" / name]


def _complete(out: Path, arguments: Json) -> dict[str, int] | None:
    """The counts of the data set at `out` if it is the asked one, with all its files."""
    record = _read_json(out / "scenes.json")
    if record.get("arguments") != arguments:
        raise FileExistsError(
            f"{out} holds other scenes ({record.get('arguments')}); choose another folder or "
            "delete it"
        )
    kinds = ("instances", "lvis_v1", "captions")
    files = [out / "annotations" / f"{k}_{s}.json" for k in kinds for s in _ADE_NAMES]
    files += [out / "ade" / "classes.txt", out / "ade" / "classes.json"]
    full = all(
        folder.is_dir() and sum(1 for _ in folder.iterdir()) == arguments[split]
        for split in _ADE_NAMES
        for folder in _folders(out, split)
    )
    return record["counts"] if full and all(f.is_file() for f in files) else None


def write_scenes(
    out: Path,
    train: int,
    val: int,
    size: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    level: str = "hard",
) -> dict[str, int]:
    """Writes `train` + `val` scenes of `size` pixels and of a level (see `levels`) below `out` in
    all formats (see the module).

    `progress(done, total)` is called after each image. Returns the numbers of images, objects,
    captions and of rare, common and frequent categories. Does nothing when the same data set is
    already there, and writes an interrupted one again. Raises FileExistsError when `out` holds
    anything else, ValueError for numbers out of range.
    """
    out = Path(out)
    if not (1 <= train <= VAL_START and 1 <= val <= VAL_START):
        raise ValueError(f"train and val must be 1 to {VAL_START} images, got {train} and {val}")
    render_scene(
        seed, 0, size, level
    )  # says what is wrong with its arguments before anything is written
    arguments = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    if level != HARD.name:  # scenes of before there were levels are hard ones
        arguments["level"] = level
    if (out / "scenes.json").is_file():
        counts = _complete(out, arguments)
        if counts is not None:
            _add_later_files(out, arguments)
            return counts
    elif out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder")
    elif out.is_dir() and any(out.iterdir()):
        note = out / _UNFINISHED
        if not note.is_file() or _read_json(note) != arguments:
            raise FileExistsError(f"{out} holds other files; choose another folder or delete it")
    folders = [out, out / "annotations"]
    for folder in folders + [f for split in _ADE_NAMES for f in _folders(out, split)]:
        folder.mkdir(parents=True, exist_ok=True)
    _write_json(out / _UNFINISHED, arguments)
    (out / "scenes.json").unlink(missing_ok=True)  # after the note: one of the two is always there

    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, train + val)

    splits = {
        "train": _write_split(out, "train", range(train), arguments, tick),
        "val": _write_split(out, "val", range(VAL_START, VAL_START + val), arguments, tick),
    }
    names = level_of(level).categories
    categories = lvis_categories(splits["train"][1], names)
    for split, (images, objects) in splits.items():
        shapes = [{k: v for k, v in o.items() if k != "iscrowd"} for o in objects]
        body = {"annotations": shapes, "categories": categories}
        path = out / "annotations" / f"lvis_v1_{split}.json"
        _write_json(path, _head(split, lvis_images(split, images, objects, names)) | body)
    _write_classes(out / "ade", level_of(level))
    groups = Counter(category["frequency"] for category in categories)
    counts = {
        "train": train,
        "val": val,
        "train_objects": len(splits["train"][1]),
        "val_objects": len(splits["val"][1]),
        "captions": 5 * (train + val),
        "rare": groups["r"],
        "common": groups["c"],
        "frequent": groups["f"],
    }
    _write_json(out / "scenes.json", {"arguments": arguments, "counts": counts})
    (out / _UNFINISHED).unlink()
    return counts
