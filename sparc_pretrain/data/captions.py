"""Captions: from annotation files (COCO, Karpathy, Flickr, CSV, TSV, JSONL) and from stored
samples.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc_pretrain import json_file
from sparc_pretrain.data.coco_file import coco_rows
from sparc_pretrain.data.shard_index import RawSample

if TYPE_CHECKING:
    from numpy.random import Generator

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_name", "filepath", "path", "url")
CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "title", "sentence")
CHOICES = ("any", "first", "longest")
KINDS = "COCO captions JSON, Karpathy JSON, Flickr token.txt, CSV, TSV or JSONL"


class BadCaption(ValueError):
    """This sample has no caption that can be used; the message is the reason."""


def read_captions(file: str | Path, split: str | None = None) -> dict[str, list[str]]:
    """File name of each image -> its captions, stripped, in the file's order.

    The kind of file is told by its suffix and content. Captions that are blank, or that no encoding
    can hold (JSON can name halves of characters), are left out; an image without any other keeps an
    empty list. `split` (of a Karpathy file) may join several: 'train+restval'.

    Raises FileNotFoundError; ValueError naming file and line (or entry) for what cannot be read,
    for a `split` that the file does not have, and when there is no caption at all.
    """
    path = Path(file)
    text = json_file.read_text(path)
    found: dict[str, list[str]] = {}
    for image, caption in _pairs(path, text, split):
        caption = "" if caption is None else caption  # JSON's null, as an empty cell of a table
        if not (isinstance(image, str) and isinstance(caption, str)):
            raise ValueError(
                f"{path}: image {image!r} has a caption {caption!r}; both must be texts"
            )
        texts = found.setdefault(image, [])
        if caption.strip() and _is_utf_8(caption):
            texts.append(caption.strip())
    if not any(found.values()):
        raise ValueError(f"{path} has no caption; known kinds: {KINDS}")
    return found


def splits(file: str | Path) -> list[str]:
    """The splits of a Karpathy JSON, sorted; none of any other file. Raises as `read_captions`."""
    path = Path(file)
    if path.suffix.lower() != ".json":
        return []
    data = _read_json(path, json_file.read_text(path))
    images = data.get("images")
    rows = images if isinstance(images, list) and "annotations" not in data else []
    return sorted({str(row["split"]) for row in rows if isinstance(row, dict) and "split" in row})


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stored_captions(raw: RawSample) -> list[str]:
    """The usable captions of a sample in a shard, stripped; of several, blank ones are left out.

    Raises BadCaption: missing, not UTF-8, broken JSON, or empty.
    """
    if raw.text is None:
        raise BadCaption("no caption next to the image in its tar")
    try:
        text = raw.text.decode("utf-8-sig")
        texts = _from_json(text) if raw.is_json else [text]
        "".join(texts).encode()  # JSON can name lone surrogates, which no encoding can hold
    except UnicodeError:
        raise BadCaption("caption is not UTF-8") from None
    texts = [one for one in (text.strip() for text in texts) if one]
    if not texts:
        raise BadCaption("caption is empty")
    return texts


def chosen(which: str) -> str:
    """`which` of `choose`. Raises ValueError for another."""
    if which not in CHOICES:
        raise ValueError(f"caption={which!r}: use one of {', '.join(CHOICES)}")
    return which


def choose(said: Sequence[str], which: str, generator: Generator) -> str:
    """One of an image's captions: 'any' drawn anew, the 'first', or the 'longest' (the first of
    equals): short ones are often true of other images too.
    """
    if which == "any":
        return said[int(generator.integers(len(said)))]
    return said[0] if which == "first" else max(said, key=len)


def _from_json(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadCaption("caption JSON is broken") from None
    if not isinstance(found, dict):
        raise BadCaption("caption JSON is not an object")
    if not found.keys() & {"caption", "captions"}:
        raise BadCaption("caption JSON has neither 'caption' nor 'captions'")
    found = found.get("captions") or found.get("caption")
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]


def _pairs(path: Path, text: str, split: str | None) -> Iterator[tuple[str, str]]:
    """(image, caption) pairs; an image without captions comes with a blank one."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json(path, text, split)
    if split is not None:
        raise ValueError(f"{path}: only a Karpathy JSON has splits; leave --split out")
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, text)
    first = text.split("\n", 1)[0]
    if "#" in first.split("\t")[0] and "\t" in first:
        return _flickr(path, text)
    if suffix in (".csv", ".tsv", ".txt"):
        barred = "|" in first and "," not in first  # Kaggle's results.csv of Flickr30k
        tabbed = suffix == ".tsv" or "\t" in first
        return _table(path, text, "\t" if tabbed else "|" if barred else ",")
    raise ValueError(f"{path}: unknown kind of caption file; known kinds: {KINDS}")


def _read_json(path: Path, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return data if isinstance(data, dict) else {}


def _json(path: Path, text: str, split: str | None) -> Iterator[tuple[str, str]]:
    data = _read_json(path, text)
    images = data.get("images")
    if not isinstance(images, list):
        raise ValueError(f"{path} has no list 'images'; it is neither COCO nor Karpathy JSON")
    if "annotations" in data:
        if split is not None:
            raise ValueError(f"{path}: COCO files have no splits; leave --split out")
        yield from _coco(path, data)
    else:
        yield from _karpathy(path, images, split)


def _coco(path: Path, data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    found = coco_rows(data, path, categories=False)
    if found.unlisted:
        n = found.unlisted[0]
        unknown = data["annotations"][n]["image_id"]
        raise ValueError(f"{path}: annotations[{n}] is of the unknown image {unknown}")
    names = {
        row["id"]: _field(path, "images", n, row, "file_name") for n, row in enumerate(found.images)
    }
    yield from ((name, "") for name in names.values())
    for n, row in enumerate(found.annotations):
        yield names[row["image_id"]], _field(path, "annotations", n, row, "caption")


def _karpathy(path: Path, images: list[Any], split: str | None) -> Iterator[tuple[str, str]]:
    wanted = set(split.split("+")) if split else None
    known = {str(image.get("split")) for image in images if isinstance(image, dict)}
    if wanted and not wanted <= known:
        raise ValueError(f"{path} has the splits {', '.join(sorted(known))}, not {split!r}")
    for n, image in enumerate(images):
        name = _field(path, "images", n, image, "filename")
        if wanted and str(image.get("split")) not in wanted:
            continue
        name = f"{image['filepath']}/{name}" if image.get("filepath") else name
        yield name, ""
        sentences = _field(path, "images", n, image, "sentences")
        if not isinstance(sentences, list):
            raise ValueError(f"{path}: the sentences of images[{n}] are not a list")
        for sentence in sentences:
            yield name, _field(path, "sentences of images", n, sentence, "raw")


def _field(path: Path, where: str, n: int, entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{path}: {where}[{n}] has no {key!r}")
    return entry[key]


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for n, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"{path}, line {n}: not JSON") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {n}: not a JSON object")
        image = next((row[key] for key in IMAGE_COLUMNS if key in row), None)
        texts = next((row[key] for key in CAPTION_COLUMNS if key in row), ...)
        texts = texts if isinstance(texts, list) else [texts]
        texts = ["" if one is None else one for one in texts]
        if not isinstance(image, str) or not all(isinstance(one, str) for one in texts):
            raise ValueError(f"{path}, line {n}: needs 'image' and 'caption' (texts)")
        yield image, ""
        yield from ((image, one) for one in texts)


def _flickr(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for n, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        image, mark, number = name.rpartition("#")
        if not tab or not mark or not number.strip().isdigit():
            raise ValueError(f"{path}, line {n}: expected 'name.jpg#0<TAB>caption'")
        yield image, caption


def _table(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, str]]:
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    # strict: a quote that is never closed would swallow the rows behind it
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
    columns: tuple[int, int] | None = None
    width = 0
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns, is_header = _columns(path, row)
                width = len(row)
                if is_header:
                    continue
            if delimiter == "|" and len(row) == width - 1:
                row = _with_number(row)
            if len(row) <= max(columns):
                raise ValueError(f"{path}, line {reader.line_num}: {len(row)} columns are too few")
            if any(cell.strip() for cell in row[width:]):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} columns, the first line has "
                    f"{width}: put captions that hold a {delimiter!r} into double quotes"
                )
            caption = row[columns[1]]
            yield row[columns[0]].strip(), caption if delimiter == "," else _unquoted(caption)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _with_number(row: list[str]) -> list[str]:
    """A row of Kaggle's Flickr30k that lacks the bar behind the caption's number: "x.jpg| 4   A dog
    ...", of which the published file has one.
    """
    number = re.match(r"\s*(\d+)\s+(\S.*)", row[-1])
    return [*row[:-1], *number.groups()] if number else row


def _unquoted(cell: str) -> str:
    """What pandas quotes in a file that is tab-separated; quotes inside a text are left alone."""
    text = cell.strip()
    inner = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell


def _columns(path: Path, row: list[str]) -> tuple[tuple[int, int], bool]:
    """((image column, caption column), whether the first row is a header)."""
    names = [cell.strip().lower() for cell in row]
    image = next((names.index(name) for name in IMAGE_COLUMNS if name in names), None)
    caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
    if image is not None and caption is not None:
        return (image, caption), True
    if len(row) == 2 and Path(names[0]).suffix:
        return (0, 1), False
    raise ValueError(
        f"{path}, line 1: no header with the columns 'image' and 'caption', but {row[:4]}"
    )
