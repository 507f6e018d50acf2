"""Large JSON files go through another parser, which must say what json says."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from sparc_pretrain import json_file


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(json_file, "LARGE", 1)
    return tmp_path / "rows.json"


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def test_numbers_of_a_large_file_are_those_of_json_to_the_bit(large: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2**64, 20_000, dtype=np.uint64).view(float)
    spelt = [repr(x) for x in drawn[np.isfinite(drawn)].tolist()]
    digits = rng.integers(0, 10, (5000, 40)).astype("U1")
    for row, exponent in zip(digits, rng.integers(-330, 270, 5000), strict=True):
        spelt.append(f"{row[0]}.{''.join(row[1:])}e{exponent}")  # more digits than a float has
    large.write_text(f"[{','.join(spelt)}]")
    found = json_file.read(large)
    assert bits(found) == bits(json.loads(large.read_text())) and len(found) > 24_000


@pytest.mark.parametrize(
    "text",
    [
        '[NaN, -Infinity, 1e400, -0, -0.0, 123456789012345678901234567890, true, null, "\\u00e9"]',
        '{"a": 1, "a": 2}',
        '["\\ud800"]',  # half of a pair
        "[" * 400 + "]" * 400,
    ],
)
def test_what_json_reads_is_read_from_a_large_file_too(large: Path, text: str) -> None:
    large.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found, wanted = json_file.read(large), json.loads(text)
    assert repr(found) == repr(wanted)  # nan, and -0.0 beside 0
    assert [type(x) for x in found] == [type(x) for x in wanted]


@pytest.mark.parametrize("text", ["[1,]", '{"a": 1} x', "[01]", '["\x01"]', ""])
def test_what_is_no_json_is_told_as_before(large: Path, text: str) -> None:
    large.write_text(text or " ")
    with pytest.raises(json.JSONDecodeError) as wanted:
        json.loads(text or " ")
    with pytest.raises(ValueError) as told:
        json_file.read(large)
    assert str(told.value) == f"{large} is not JSON: {wanted.value}"


def test_large_files_take_the_other_parser_and_small_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydantic_core.from_json", lambda *_, **__: math.pi)
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    small.write_text("[1]")
    large.write_text("[" + "1," * json_file.LARGE + "1]")
    assert json_file.read(small) == [1] and json_file.read(large) == math.pi


def test_lines_of_a_text_end_as_texts_do(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert json_file.read_text(path) == "a\nb\nc\n"
