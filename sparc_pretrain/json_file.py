"""Text, JSON and CSV files that somebody gives: read whole, every fault told in one line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

SMALL = 16 << 20  # bytes of a config, a manifest, a record
LARGE = 1 << 20  # bytes from which on the other parser saves more than it takes to import


def read_text(path: str | Path, most: int | None = None, what: str = "file") -> str:
    """What a text file holds, without a byte order mark.

    Args:
        most: bytes that a file of its kind may have; None = any number. what: its kind, said where
            it is not there.

    Raises:
        FileNotFoundError: no such file. ValueError: naming it, for anything but UTF-8, and for what
            is no file at all (a pipe would be waited for).
    """
    text = _decoded(path, _held(path, most, what))
    return io.StringIO(text, newline=None).read() if "\r" in text else text


def _held(path: str | Path, most: int | None, what: str) -> bytes:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no {what} {path}")
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    size = path.stat().st_size
    if most is not None and size > most:
        raise ValueError(f"{path} has {size:,} bytes, more than a file of its kind has")
    return path.read_bytes()


def _decoded(path: str | Path, held: bytes) -> str:
    try:
        return held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None


def read(path: str | Path, most: int | None = None, what: str = "file") -> Any:
    """What a JSON file holds; arguments and errors as of `read_text`, and ValueError for what is no
    JSON.
    """
    held = _held(path, most, what)
    if len(held) >= LARGE:
        from pydantic_core import from_json  # three times as fast, the same bits

        # what it refuses, json may read (lone surrogates), or says better what is wrong
        with suppress(ValueError):
            return from_json(held.removeprefix(codecs.BOM_UTF8), cache_strings="keys")
    text = _decoded(path, held)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_object(path: str | Path, most: int | None = SMALL) -> dict[str, Any]:
    """As `read`, for a file that holds an object; ValueError when it holds anything else."""
    found = read(path, most)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def read_csv(
    path: str | Path, what: str = "table"
) -> tuple[list[str], list[tuple[int, dict[str, str | None]]]]:
    """The columns of a CSV file with a header, and its rows with the number of their last line;
    errors as of `read_text`, and ValueError for what is no CSV.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, what=what), newline=""))
    try:
        return list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from None
