"""tools/measure/scale.py counts what it says."""

from __future__ import annotations

import re

from sparc_pretrain.data.shards import write_shards
from tests.commands import call


def test_tokens_for_a_real_one_are_those_of_the_cut(tmp_path, capsys):
    """Two lengths, half and half: two micro-batches hold one each."""
    short, long = "red", "red blue green red blue green red blue green"
    pairs = [(str(n), b"\xff\xd8\xff", "jpg", [short if n % 2 else long]) for n in range(8)]
    write_shards(pairs, tmp_path)
    code, said = call(
        "measure/scale", "text", str(tmp_path / "*.tar"), "--batch", "8", "--accumulate", "2"
    )
    assert code == 0, said
    told = capsys.readouterr().out
    longest, parts, grouped = map(float, re.findall(r" (\d+\.\d\d)$", told, re.MULTILINE))
    assert longest > 1.3 and parts == grouped == 1.0
