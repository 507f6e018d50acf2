"""Make training data, or bring a downloaded data set into the form that the configs expect.

python tools/data.py shards --images DIR --captions FILE --out DIR [--resize 256]
python tools/data.py scenes --out data/scenes --train 4000 --val 400 --size 128
python tools/data.py boxes --kind coco --images DIR --annotations FILE.. --out DIR
python tools/data.py index 'data/pairs/*.tar'      (before a training on many, says what is in them)
python tools/data.py coco data/coco        (also lvis, ade20k, voc, objects365)
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from sparc_pretrain import json_file
from sparc_pretrain.command import cli, flags
from sparc_pretrain.data.box_import import kinds as box_kinds
from sparc_pretrain.data.layouts import LAYOUTS, link_coco, prepare


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shards = commands.add_parser("shards", help="images and a caption file -> tars")
    shards.add_argument("--images", type=Path, required=True, help="folder of the images")
    shards.add_argument(
        "--captions",
        type=Path,
        required=True,
        help="COCO or Karpathy JSON, Flickr token.txt, CSV, TSV or JSONL (image, caption)",
    )
    shards.add_argument("--split", help="of a Karpathy JSON, e.g. train or train+restval")
    shards.add_argument("--seed", type=int, default=0, help="of the order of the samples")
    shards.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads")
    shards.set_defaults(run=make_shards, prefix="shard-")

    boxes = commands.add_parser("boxes", help="images and boxes with words -> tars")
    boxes.add_argument("--kind", choices=box_kinds.KINDS, required=True)
    boxes.add_argument("--images", type=Path, required=True, help="folder of the images")
    boxes.add_argument(
        "--annotations", type=Path, nargs="+", required=True, help="files of this kind"
    )
    boxes.add_argument("--captions", type=Path, help="a caption file of the same images")
    boxes.add_argument("--split", help="of a Karpathy JSON given as --captions")
    boxes.add_argument("--exclude", type=Path, help="file of image ids or names, one a line")
    boxes.add_argument(
        "--several",
        choices=box_kinds.SEVERAL,
        default="skip",
        help="entities: what a phrase of several boxes becomes (default: skip)",
    )
    boxes.add_argument("--limit", type=int, help="of images")
    boxes.set_defaults(run=make_boxes, prefix="boxes-")

    for made in (shards, boxes):
        prefix = made.get_default("prefix")
        made.add_argument("--out", type=Path, required=True, help="folder of the tars")
        made.add_argument("--prefix", default=prefix, help=f"of their names (default: {prefix})")
        made.add_argument("--shard-size", type=int, default=1000, help="samples per tar")
        made.add_argument(
            "--resize",
            type=int,
            help="bring larger images down to this shorter side in pixels (JPEG quality 95)",
        )
        made.add_argument("--overwrite", action="store_true", help="replace tars of this prefix")

    export = commands.add_parser("export", help="tars with boxes -> JSON lines of other projects")
    export.add_argument("shards", help="a tar, a folder of them, or a pattern in quotes")
    export.add_argument("--kind", choices=box_kinds.LINES, required=True)
    export.add_argument("--out", type=Path, required=True, help="folder of lines and images")
    export.set_defaults(run=make_export)

    index = commands.add_parser("index", help="find the samples of tars, once, and count them")
    index.add_argument("shards", nargs="+", help="tars, folders of them, or patterns in quotes")
    index.set_defaults(run=make_index)

    scenes = commands.add_parser("scenes", help="the built-in rendered scenes, and their tars")
    scenes.add_argument("--out", type=Path, required=True, help="folder of the data set")
    scenes.add_argument("--train", type=int, default=2000, help="training images")
    scenes.add_argument("--val", type=int, default=200, help="validation images")
    scenes.add_argument("--size", type=int, default=128, help="side in pixels")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument(
        "--level",
        default="hard",
        help="easy: 1 to 3 large objects of 12 categories with patterns of their own; product: one "
        "of these; default: 2 to 4 of 24; hard: 2 to 7 of 36, told by their outlines alone (the "
        "one without --level)",
    )
    scenes.add_argument("--shard-size", type=int, default=500, help="samples per tar")
    scenes.set_defaults(run=make_scenes)

    for name, layout in LAYOUTS.items():
        told = (layout.check.__doc__ or "").strip()
        known = commands.add_parser(name, help=f"check and prepare {told}", description=told)
        known.add_argument("root", type=Path, help="folder with the downloaded files")
        known.add_argument("--check", action="store_true", help="only look, change nothing")
        known.add_argument("--force", action="store_true", help="replace what is there")
        if name == "lvis":
            known.add_argument("--coco", type=Path, help="COCO's root, whose photographs to link")
        known.set_defaults(run=make_layout, layout=layout)
    return parser.parse_args(argv)


def make_shards(args: argparse.Namespace) -> None:
    """The subcommand `shards`. Raises ValueError when no pair can be used, OSError for what is
    missing or in the way.
    """
    from sparc_pretrain.data import image_files
    from sparc_pretrain.data.captions import read_captions, splits
    from sparc_pretrain.data.shards import write_shards

    _check(args)
    found_splits = splits(args.captions) if args.split is None else []
    if len(found_splits) > 1:  # what is held out must not slip into a training set
        raise ValueError(
            f"{args.captions} has the splits {', '.join(found_splits)}: choose with --split, e.g. "
            f"--split {'train' if 'train' in found_splits else found_splits[0]}, or take all of "
            f"them with --split {'+'.join(found_splits)}"
        )
    captions = read_captions(args.captions, args.split)
    skipped: Counter[str] = Counter()
    captions = image_files.shuffled(captions, args.seed)
    found = image_files.pairs(args.images, captions, args.resize, skipped, True, args.jobs)
    first = next(found, None)  # before any old tar is replaced
    if first is None:
        raise ValueError(f"no pair in {args.images} and {args.captions}: {_summary(skipped)}")
    tars = write_shards(
        _after(first, found), args.out, args.shard_size, args.prefix, args.overwrite
    )
    print(f"{len(captions) - skipped.total()} pairs in {len(tars)} shards: {args.out}")
    if skipped:
        print(f"skipped {skipped.total()}: {_summary(skipped)}")


def make_boxes(args: argparse.Namespace) -> None:
    """The subcommand `boxes`. Raises ValueError when no image can be used, or a file is of another
    kind, OSError for what is missing or in the way.
    """
    from sparc_pretrain.data.box_import import files as box_files
    from sparc_pretrain.data.box_import import shards as box_shards
    from sparc_pretrain.data.captions import read_captions
    from sparc_pretrain.data.shards import write_shards
    from sparc_pretrain.zeroshot import prompts

    _check(args)
    dropped: Counter[str] = Counter()
    captions = read_captions(args.captions, args.split) if args.captions else {}
    exclude = set(json_file.read_text(args.exclude).split()) if args.exclude else set()
    found = box_files.read_boxes(
        args.kind, args.annotations, dropped, args.several, prompts.spoken_apart
    )
    found = tqdm(islice(found, args.limit), unit=" images", disable=None)
    made = box_shards.samples(found, args.images, dropped, captions, args.resize, exclude)
    counts: Counter[str] = Counter()
    first = next(made, None)  # before any old tar is replaced
    if first is None:
        raise ValueError(f"no image in {args.images} and the annotations: {_summary(dropped)}")
    made = box_shards.counted(_after(first, made), counts)
    tars = write_shards(made, args.out, args.shard_size, args.prefix, args.overwrite)
    print(
        f"{counts['images']} images with {counts['boxes']} boxes and {counts['texts']} texts in "
        f"{len(tars)} shards: {args.out}"
    )
    if dropped:
        print(f"left out: {_summary(dropped)}")


def make_export(args: argparse.Namespace) -> None:
    """The subcommand `export`: `OUT/KIND.jsonl` and `OUT/images`."""
    from sparc_pretrain.data.box_import import shards as box_shards
    from sparc_pretrain.data.shards import ShardSet

    dropped: Counter[str] = Counter()
    shards = ShardSet(args.shards)
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    count, path = 0, args.out / f"{args.kind}.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        found = box_shards.lines(shards, args.kind, folder, dropped)
        for _, lines in tqdm(found, total=len(shards), unit=" images", disable=None):
            count += len(lines)
            file.writelines(map(box_shards.dump, lines))
    print(f"{count} lines of {len(shards) - dropped.total()} images: {path}")
    if dropped:
        print(f"left out: {_summary(dropped)}")


def make_index(args: argparse.Namespace) -> None:
    """The subcommand `index`. Raises ValueError when a tar is missing or damaged, or none holds a
    sample with a caption.
    """
    from sparc_pretrain.data.health import unusable_captions
    from sparc_pretrain.data.shards import ShardSet

    found = ShardSet(args.shards, show=True)
    print(f"{len(found)} samples in {len(found.paths)} tars")
    if found.ignored:
        print(
            f"{found.ignored} members are in none: other kinds of files, captions without an image,"
            " or names with several dots"
        )
    if found.without_caption:
        print(
            f"{found.without_caption} samples have no caption, which training skips. A caption is "
            "KEY.txt or KEY.json beside KEY.jpg, and a sample's members are neighbours: where all "
            "images come before all captions, make the tar again with `tar --sort=name`"
        )
    unusable, looked_at = unusable_captions(found)
    for why, n in unusable.most_common():
        print(f"{n} of {looked_at} captions, the first of each tar, cannot be used: {why}")
    for bad in found.bad:
        print(f"WRONG  {bad.shard}: {bad.reason}")
    if found.without_caption == len(found) or (looked_at and unusable.total() == looked_at):
        raise ValueError(f"{' '.join(args.shards)}: training finds no caption that it can use")
    if found.bad:
        raise ValueError(f"{len(found.bad)} of {len(found.paths)} tars are missing or damaged")


def make_scenes(args: argparse.Namespace) -> None:
    """The subcommand `scenes`: the data set in its own formats, then `shards/{train,val}-*.tar`."""
    from sparc_pretrain.data import image_files
    from sparc_pretrain.data.box_import import files as box_files
    from sparc_pretrain.data.box_import import shards as box_shards
    from sparc_pretrain.data.captions import read_captions
    from sparc_pretrain.data.scenes import write_scenes
    from sparc_pretrain.data.shards import write_shards

    with tqdm(total=args.train + args.val, unit=" scenes") as bar:
        more = lambda done, _: bar.update(done - bar.n)  # noqa: E731
        write_scenes(args.out, args.train, args.val, args.size, args.seed, more, args.level)
    for split in ("train", "val"):
        captions = read_captions(args.out / "annotations" / f"captions_{split}.json")
        found = image_files.pairs(args.out / "images" / split, captions, None, Counter())
        folder = args.out / "shards"
        tars = write_shards(found, folder, args.shard_size, f"{split}-", overwrite=True)
        print(f"{len(captions)} {split} pairs in {len(tars)} shards: {folder}/{split}-*.tar")
        file = args.out / "annotations" / f"elements_{split}.json"
        boxed = box_files.read_boxes("scenes", [file], Counter())
        boxed = box_shards.samples(boxed, args.out / "images" / split, Counter())
        write_shards(boxed, folder, args.shard_size, f"boxes-{split}-", overwrite=True)
        print(f"the same with boxes: {folder}/boxes-{split}-*.tar")


def make_layout(args: argparse.Namespace) -> None:
    """The subcommands of downloaded data sets: unpack, convert, then say what is there and what is
    missing. Raises ValueError when something is.
    """
    if not args.check:
        for line in prepare(args.layout, args.root, args.force):
            print(line)
        if getattr(args, "coco", None):
            for line in link_coco(args.root, args.coco):
                print(line)
    elif not args.root.is_dir():
        raise FileNotFoundError(f"{args.root} is not a folder")
    findings = list(args.layout.check(args.root))
    for finding in findings:
        detail = finding.problem or finding.detail
        print(f"{'WRONG' if finding.problem else 'ok':>5}  {finding.part}: {detail}")
    wrong = sum(bool(finding.problem) for finding in findings)
    if wrong:
        raise ValueError(
            f"{args.root} is not complete: {wrong} of {len(findings)} parts, see above; put the "
            "downloads there and run the same command again"
        )


def _check(args: argparse.Namespace) -> None:
    if args.resize is not None and args.resize < 1:
        raise ValueError(f"--resize must be at least 1 pixel, not {args.resize}")
    if not args.images.is_dir():
        raise FileNotFoundError(f"--images {args.images} is not a folder")


def _after(first: tuple, rest: Iterator[tuple]) -> Iterator[tuple]:
    yield first
    yield from rest


def _summary(skipped: Counter[str]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in skipped.most_common())


def main(argv: list[str] | None = None) -> None:
    """Parse and run."""
    args = parse(argv)
    args.run(args)


if __name__ == "__main__":
    cli.guard(main)
