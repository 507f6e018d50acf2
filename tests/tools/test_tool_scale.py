"""tools/measure/scale.py counts what it says."""

from __future__ import annotations

import json
import re
import tarfile
from types import SimpleNamespace

import pytest

from sparc_pretrain.data.shard_index import ShardIndex
from sparc_pretrain.data.shards import write_shards
from tests.commands import call, tool


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


def test_the_start_of_a_training_is_clocked_once(tmp_path):
    hook = tool("measure/step_clock").StartClockHook()
    runner = SimpleNamespace(work_dir=tmp_path, rank=3)
    hook.before_train_iter(runner, 0)
    first = (tmp_path / "start.3.json").read_text()
    hook.before_train_iter(runner, 1)
    assert (tmp_path / "start.3.json").read_text() == first
    found = json.loads(first)
    assert 0 < found["seconds"] < 24 * 3600 and 50 < found["peak_mib"] < 2**16


def test_the_tar_of_many_members_is_what_tarfile_reads_and_a_wrong_index_is_noticed(
    tmp_path, monkeypatch
):
    scale, path = tool("measure/scale"), tmp_path / "tars" / "pairs.tar"
    scale._wide_tar(path, 40)
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 80
    assert len(ShardIndex.open(path)) == 40
    assert scale._compared(path, 1000) == 40
    read = ShardIndex.read
    monkeypatch.setattr(ShardIndex, "read", lambda self, i, image=True: read(self, 7, image))
    with pytest.raises(RuntimeError, match=r"sample \d+ is"):
        scale._compared(path, 1000)


def test_calls_are_counted_of_the_tars_that_are_read_and_of_others(tmp_path):
    """Of a log as strace writes it."""
    log, tars = tmp_path / "calls.0", tmp_path / "tars"
    lines = [
        f'7 openat(AT_FDCWD</x>, "{tars}/tar-000001.tar.index", O_RDONLY|O_CLOEXEC) = 3',
        f'7 newfstatat(AT_FDCWD</x>, "{tars}/tar-000001.tar", 0x7f, 0) = 0',
        f'7 newfstatat(AT_FDCWD</x>, "{tars}/tar-000002.tar", 0x7f, 0) = 0',
        '7 openat(AT_FDCWD</x>, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3',
    ]
    log.write_text("\n".join(lines))
    found = tool("measure/scale")._calls(log, tars)
    assert found == "2 calls about the 1 tars it reads, 1 others"
