"""What is known of a list of tars: looked at once, kept in one file, told to other processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparc_pretrain.data import shard_index, shard_list
from sparc_pretrain.data.paths import expand
from sparc_pretrain.data.shard_index import ShardIndex, index_file
from sparc_pretrain.data.shards import ShardSet, write_shards
from tests.commands import ROOT
from tests.data.test_shards import make_tar, pairs

TARS = 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tars(tmp_path) -> list[Path]:
    folder = tmp_path / "tars"
    folder.mkdir()
    made = write_shards(pairs(3 * TARS - 1), folder, 3)
    made[4].unlink()  # missing, with its index
    index_file(made[4]).unlink()
    make_tar(folder / "shard-000005.tar", [("a.jpg", b"x"), ("b.pkl", b"y")])  # other, and no text
    made[6].write_bytes(made[6].read_bytes()[:2000])  # damaged
    return made


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the tars whose own index is opened."""
    found, original = [], ShardIndex.open.__func__

    def spy(cls, path, *rest):
        found.append(path.name)
        return original(cls, path, *rest)

    monkeypatch.setattr(ShardIndex, "open", classmethod(spy))
    return found


def content(found: shard_list.ShardList) -> tuple:
    bad = [(Path(one.shard).name, one.reason) for one in found.bad]
    return (
        found.paths,
        found.sizes.tolist(),
        bad,
        found.ignored,
        found.without_caption,
        found.sha256,
    )


def test_tars_come_in_the_order_of_paths_also_of_several_folders(tmp_path):
    """As text `a-b/` stands before `a/`, as a path behind it: the order of training hangs on it."""
    for folder in ("a", "a-b", "a b", "b"):
        write_shards(pairs(40), tmp_path / folder, shard_size=2)
    found = shard_list.look(f"{tmp_path}/*/*.tar")
    assert len(found.paths) > shard_list.TOGETHER
    assert list(found.paths) == sorted(tmp_path.glob("*/*.tar"))
    assert found.sizes.tolist() == [2] * 80 and not found.bad


def test_a_name_is_that_of_its_path_however_it_is_written(tars, monkeypatch):
    """The list's file and what is logged are called after it."""
    monkeypatch.chdir(tars[0].parent)
    here = sorted(map(str, Path().glob("*.tar")))
    for written in (".", "./*.tar", "*.tar", Path(), [f"./{name}" for name in here]):
        assert expand(written).text == here
    whole = [str(tars[0].parent / name) for name in here]
    assert expand(f"{tars[0].parent}//*.tar").text == expand(tars[0].parent).text == whole
    made = {file.name for file in shard_list._files(expand("."))}
    assert made & {file.name for file in shard_list._files(expand(tars[0].parent))}


def test_other_processes_are_sent_text(tars):
    """A Path for each tar was most of what 100,000 of them cost a process."""
    found = shard_list.look(tars)
    sent = pickle.dumps(found)
    assert b"pathlib" not in sent
    assert content(pickle.loads(sent)) == content(found)
    assert found.paths == tars and found.paths != tars[1:]


def test_the_second_look_opens_no_tar_and_finds_the_same(tars, opened):
    first = shard_list.look(tars)
    assert len(set(opened)) == TARS
    again, opened[:] = shard_list.look(tars), []
    assert content(shard_list.look(tars)) == content(again) == content(first)
    assert opened == ["shard-000004.tar"]  # it is missing: it may have come
    assert first.sizes.tolist()[3:8] == [3, 0, 1, 1, 3] and first.sizes.sum() == 3 * TARS - 8
    assert [name for name, _ in content(first)[2]] == ["shard-000004.tar", "shard-000006.tar"]
    assert (first.ignored, first.without_caption) == (1, 1)
    assert [p.suffix for p in tars[0].parent.glob("shards-*")] == [".list"]


def test_only_tars_that_have_changed_are_opened(tars, opened):
    before = shard_list.look(tars)
    write_shards(pairs(2, first=90), tars[0].parent / "new", 9)
    os.replace(tars[0].parent / "new" / "shard-000000.tar", tars[9])
    os.utime(tars[11], (1, 1))
    opened.clear()
    after = shard_list.look(tars)
    assert sorted(set(opened)) == ["shard-000004.tar", "shard-000009.tar", "shard-000011.tar"]
    assert after.sizes[9] == 2 and after.sha256 != before.sha256
    assert np.delete(after.sizes, 9).tolist() == np.delete(before.sizes, 9).tolist()


@pytest.mark.parametrize("damage", ["cut", "flipped", "shorter", "empty"])
def test_a_damaged_list_is_made_again(tars, opened, damage):
    first = shard_list.look(tars)
    file = next(tars[0].parent.glob("shards-*.list"))
    whole = file.read_bytes()
    rows = json.dumps(json.loads(whole.partition(b"\n")[2])[1:]).encode()
    text = {
        "cut": whole[:-9],
        "flipped": whole.replace(b",3,0,0,", b",4,0,0,", 1),
        "shorter": shard_list.hashlib.sha256(rows).hexdigest().encode() + b"\n" + rows,
        "empty": b"",
    }[damage]
    assert text != whole
    file.write_bytes(text)
    opened.clear()
    assert content(shard_list.look(tars)) == content(first)
    assert len(set(opened)) == TARS and file.read_bytes() == whole


def test_a_pipe_in_the_place_of_a_list_is_not_waited_for(tars):
    first = shard_list.look(tars)
    file = next(tars[0].parent.glob("shards-*.list"))
    file.unlink()
    os.mkfifo(file)
    assert content(shard_list.look(tars)) == content(first)


def test_what_was_killed_in_the_middle_goes_on_there(tars, monkeypatch):
    for tar in tars[::2]:
        index_file(tar).unlink(missing_ok=True)
    scanned = []
    scan = shard_index.scan
    monkeypatch.setattr(shard_index, "scan", lambda path: scanned.append(path.name) or scan(path))
    shard_list.look(tars)
    half = {tar.name for tar in tars[::2]} - {"shard-000004.tar"}
    assert set(scanned) == half | {"shard-000005.tar"}  # another tar lies in its place


def test_few_tars_have_no_list_and_a_folder_that_takes_none_has_it_in_the_cache(
    tars, tmp_path, monkeypatch
):
    shard_list.look(tars[:3])
    assert not list(tars[0].parent.glob("*.list"))
    write = shard_list.atomic_write

    def refuse(file, fill, **options):
        if file.parent == tars[0].parent:
            raise PermissionError("read-only")
        write(file, fill, **options)

    monkeypatch.setattr(shard_list, "atomic_write", refuse)
    first = shard_list.look(tars)
    assert not list(tars[0].parent.glob("*.list"))
    assert len(list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.list"))) == 1
    assert content(shard_list.look(tars)) == content(first)


def test_many_tars_without_an_index_are_read_by_several_processes(tmp_path, monkeypatch):
    made = write_shards(pairs(6), tmp_path, 1)
    for tar in made:
        index_file(tar).unlink()
    monkeypatch.setattr(shard_list, "MANY", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(shard_index, "scan", None)  # of this process
    assert len(ShardSet(tmp_path)) == 6 and all(index_file(tar).exists() for tar in made)


WORKER = """
import builtins, io, json, os, sys, threading, time
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {root!r})
import torch.distributed as dist
from sparc_pretrain import heartbeat
from sparc_pretrain.data.dataset import PairDataset
from sparc_pretrain.data.sampler import PairSampler
from sparc_pretrain.distributed import from_first, leave, rank
from sparc_pretrain.pretraining import recipe

touched = []
def watch(event, args):
    if event in ("open", "os.scandir", "os.listdir") and str(args[0]).startswith({data!r}):
        touched.append(str(args[0]))
stat = os.stat
def watched(path, *rest, **named):
    if str(path).startswith({data!r}):
        touched.append(str(path))
    return stat(path, *rest, **named)

def fail():
    raise FileNotFoundError("nothing there")

pauses = []
sleep = time.sleep
def noted(seconds):
    pauses.append(seconds)
    sleep(seconds)
time.sleep = noted

def work(number):
    store = dist.FileStore({store!r}, 2)
    limit = timedelta(seconds=4)  # of a collective
    dist.init_process_group("gloo", store=store, rank=number, world_size=2, timeout=limit)
    found = dict()
    heartbeat.BEAT = 0.2
    found["slow"] = from_first(lambda: time.sleep(6) or rank())
    found["pauses"] = list(pauses)
    try:
        from_first(fail)
    except FileNotFoundError as error:
        found["error"] = str(error)
    sys.addaudithook(watch)
    os.stat = watched
    sources, = recipe.look_at({data!r} + "/*.tar")
    tokenizer = recipe.make_tokenizer(Path({work!r}), dict(train=300), sources)
    data = PairDataset(sources, tokenizer, image_size=32)
    first = next(iter(PairSampler(data, seed=0, global_batch=4)))
    found |= dict(touched=len(touched), size=len(data), first=first, sha=data.fingerprint)
    heartbeat.BEAT, heartbeat.SILENCE = 100.0, 1.0
    if number:
        try:
            from_first(None)
        except TimeoutError as error:
            found["silent"] = str(error)
    json.dump(found, open({out!r} + str(number), "w"))

other = os.fork()
work(1 if other == 0 else 0)
os._exit(0 if other == 0 else os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def test_of_two_processes_one_looks_at_the_tars_for_as_long_as_it_takes(tmp_path):
    """Metadata operations below the data's folder; the goal is at most 10 on the second rank."""
    data = tmp_path / "data"
    write_shards(pairs(80), data, 2)
    out, script = tmp_path / "found", tmp_path / "worker.py"
    names = dict(root=str(ROOT), data=str(data), out=str(out), store=str(tmp_path / "store"))
    script.write_text(WORKER.format(work=str(tmp_path / "work"), **names))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads(Path(f"{out}{number}").read_text()) for number in (0, 1))
    assert first["slow"] == second["slow"] == 0  # 6 s, where a collective may take 4
    # who waits hears of a short work soon, and of a long one without asking all the time
    assert second["pauses"][:4] == [0.01, 0.02, 0.04, 0.08] and max(second["pauses"]) == 0.2
    assert first["error"] == second["error"] == "nothing there"
    assert first["size"] == second["size"] == 80 and first["sha"] == second["sha"]
    assert first["touched"] > 40 and second["touched"] == 0
    assert "no sign of life" in second["silent"]
