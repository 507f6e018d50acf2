"""Tars at an address: the same samples as on disk, through faults of every kind, secrets kept."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from sparc_pretrain.data import remote, remote_index, shard_list
from sparc_pretrain.data.address import address
from sparc_pretrain.data.dataset import PairDataset, collate
from sparc_pretrain.data.health import TooManyBadSamples, unusable_captions
from sparc_pretrain.data.remote import Lost, RemoteError
from sparc_pretrain.data.shard_index import index_file
from sparc_pretrain.data.shards import ShardSet, expand, read_ahead, write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from tests.data.test_dataset import equal, picture
from tests.data.test_shards import pairs
from tests.remote_client import alone, at_gs, at_s3
from tools.measure.range_server import serving

TOKENIZER = Tokenizer.train([f"a picture of {n} red dogs" for n in range(20)], 300)


@pytest.fixture(autouse=True)
def own_client(tmp_path_factory, monkeypatch):
    alone(monkeypatch, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three tars of photographs, one of them without its index."""
    folder = tmp_path / "tars"
    photographs = ((f"{i:04d}", picture(i), "jpg", [f"{i} dogs", "a cat"][: 1 + i % 2]) for i in
                   range(30))  # fmt: skip
    index_file(write_shards(photographs, folder, shard_size=12)[1]).unlink()
    return folder


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as server:
        yield server


def dataset(shards: object, **options) -> PairDataset:
    return PairDataset([dict(shards=shards)], TOKENIZER, image_size=32, scale=(0.4, 1), **options)


def everything(shards: ShardSet) -> list:
    return [read() for read in read_ahead([(shards, i) for i in range(len(shards))])]


def batches(data: PairDataset, **options) -> list:
    order = [(i, i % 3) for i in range(0, 30, 2)]
    return list(DataLoader(data, 5, sampler=order, collate_fn=collate, **options))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_and_fingerprint_are_those_of_the_same_tars_on_disk(folder, server, workers):
    far = dataset(f"{server.address}/tars/shard-{{000000..000002}}.tar")
    context = dict(num_workers=workers, multiprocessing_context="forkserver") if workers else {}
    found = batches(far, **context)  # first, as the index on disk is made by the other one
    near = dataset(str(folder))
    assert far.fingerprint == near.fingerprint and len(found) == 3
    assert all(map(equal, found, batches(near)))
    assert [str(path) for path in far.shard_sets[0].paths] == [
        f"{server.address}/tars/shard-00000{n}.tar" for n in range(3)
    ]
    assert list(far.captions([dict(shards=far.names[0])])) == list(near.captions(str(folder)))


def test_an_index_beside_the_tar_is_taken_else_it_is_made_and_either_is_kept(folder, server):
    tars = [address(f"{server.address}/tars/shard-00000{n}.tar") for n in (0, 1)]
    first = [remote_index.open_index(tar) for tar in tars]
    assert [size for _, size in server.asked].count(None) == 2  # both were looked for
    assert max(size[1] - size[0] for _, size in server.asked if size) + 1 == remote.PIECE
    near = ShardSet(folder)
    assert [one.sha256 for one in first] == [near.shard(n).sha256 for n in (0, 1)]
    server.asked.clear()
    again = [remote_index.open_index(tar) for tar in tars]
    assert server.asked == [(f"/tars/shard-00000{n}.tar", (0, 0)) for n in (0, 1)]
    assert [one.rows.tobytes() for one in again] == [one.rows.tobytes() for one in first]
    assert not again[1].in_memory and again[1].read(3) == near.read(15)


def test_an_image_and_its_caption_come_in_one_request(folder, server):
    shards = ShardSet(f"{server.address}/tars/shard-000000.tar")
    shards.shard(0)
    server.asked.clear()
    assert shards.read(4) == ShardSet(folder).read(4) and len(server.asked) == 1
    assert shards.read(4, image=False).text == b"4 dogs"
    begin, end = server.asked[-1][1]
    assert end - begin + 1 == len(b"4 dogs")


def test_what_lies_far_apart_comes_in_two(tmp_path, server, monkeypatch):
    write_shards(pairs(2), tmp_path / "tars")
    monkeypatch.setattr(remote_index, "GAP", 10)
    shards = ShardSet(f"{server.address}/tars/shard-000000.tar")
    shards.shard(0)
    server.asked.clear()
    assert shards.read(1) == ShardSet(tmp_path / "tars").read(1) and len(server.asked) == 2


@pytest.mark.parametrize("change", ["tar", "index", "nothing told"])
def test_another_tar_in_its_place_is_noticed(tmp_path, server, change):
    path = write_shards(pairs(5), tmp_path / "tars")[0]
    place = address(f"{server.address}/tars/{path.name}")
    before = remote_index.open_index(place).sha256
    other = write_shards(pairs(5, first=10), tmp_path / "other")[0]
    assert other.stat().st_size == path.stat().st_size
    if change == "index":  # one that lies beside the tar, but is another's
        shutil.rmtree(os.environ["XDG_CACHE_HOME"])
        shutil.copy(index_file(other), index_file(path))
        assert remote_index.open_index(place).sha256 == before
        return
    server.tags = change != "nothing told"
    if not server.tags:
        assert remote_index.open_index(place).sha256 == before
    shutil.copy(other, path)
    shutil.copy(index_file(other), index_file(path))
    after = remote_index.open_index(place)
    assert after.sha256 != before and after.key(0) == "000010"


def test_many_tars_have_one_list_and_are_asked_once_each_at_the_next_start(tmp_path, server):
    write_shards(pairs(20), tmp_path / "tars", shard_size=1)
    name = f"{server.address}/tars/shard-{{000000..000019}}.tar"
    first = shard_list.look(name)
    server.asked.clear()
    again = shard_list.look(name)
    assert {size for _, size in server.asked} == {(0, 0)} and len(server.asked) == 20
    assert again.sha256 == first.sha256 == shard_list.look(tmp_path / "tars").sha256
    assert pickle.loads(pickle.dumps(again)).paths == first.paths


FAULTS = [500, 503, 429, "reset", "cut", 408]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_asked_for_again(folder, server, fault):
    shards = ShardSet(f"{server.address}/tars/shard-000000.tar")
    shards.shard(0)
    server.asked.clear()
    server.faults = [fault, None, fault, fault]
    assert everything(shards) == [ShardSet(folder).read(i) for i in range(12)]
    assert len(server.asked) == 15


def test_a_start_goes_through_every_fault(folder, server):
    server.faults = FAULTS * 3
    far = ShardSet(f"{server.address}/tars/shard-{{000000..000002}}.tar")
    assert far.sha256 == ShardSet(folder).sha256 and not far.bad


def test_a_sample_that_stays_lost_is_replaced_and_listed_with_its_address(folder, server):
    data = dataset(f"{server.address}/tars/shard-{{000000..000002}}.tar")
    for number in range(3):
        data.shard_sets[0].shard(number)
    server.faults = [503] * remote.TRIES
    sample = data[5]
    (bad,) = sample["skipped"]
    assert bad.shard == f"{server.address}/tars/shard-000000.tar"
    assert bad.reason == f"tar: the server answers 503 ({remote.TRIES} tries)"
    assert sample["key"] != data[5]["key"] and data[5]["skipped"] == []


@pytest.mark.parametrize("fault", [503, "reset"])
def test_a_store_that_is_down_ends_the_run_in_one_line(folder, server, monkeypatch, fault):
    monkeypatch.setattr(remote, "TRIES", 2)
    data = dataset(f"{server.address}/tars/shard-{{000000..000002}}.tar")
    server.always = fault
    with pytest.raises(TooManyBadSamples, match="--resume auto") as told:
        batches(data)
    assert str(told.value).count("\n") == 0 and server.address in str(told.value)
    assert len(server.asked) < 100


def test_a_shorter_tar_is_a_bad_sample_and_no_reason_to_try_again(folder, server):
    shards = ShardSet(f"{server.address}/tars/shard-000000.tar")
    inside = int(shards.shard(0).rows[1]["image"]) + 10
    path = folder / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:inside])
    server.asked.clear()
    for i in (5, 1):  # beyond its end, across its end
        with pytest.raises(RemoteError, match=r"shard-000000\.tar: .*shorter"):
            shards.read(i)
    assert len(server.asked) == 2


def test_a_server_without_ranges_is_refused_in_one_line(folder, server):
    server.ranges = False
    with pytest.raises(ValueError, match="does not answer requests for a range") as told:
        ShardSet(f"{server.address}/tars/shard-000000.tar")
    assert "\n" not in str(told.value) and len(server.asked) <= 2


def test_missing_and_denied_tars_are_listed_as_such(folder, server):
    shutil.move(folder / "shard-000002.tar", folder / "elsewhere")
    found = ShardSet(f"{server.address}/tars/shard-{{000000..000002}}.tar")
    assert [one.reason for one in found.bad] == ["missing"] and len(found) == 24
    server.always = 403
    with pytest.raises(ValueError, match="access is denied: set the store's credentials"):
        ShardSet(f"{server.address}/tars/shard-000001.tar")


def test_samples_of_a_batch_are_read_at_a_time(folder, server):
    shards = ShardSet(f"{server.address}/tars/shard-{{000000..000002}}.tar")
    for number in range(3):
        shards.shard(number)
    server.hold, server.most = 16, 0
    assert [one.key for one in everything(shards)] == [f"{i:04d}" for i in range(30)]
    assert 16 <= server.most <= remote.READS
    assert unusable_captions(shards) == ({}, 3)


def test_the_first_of_the_next_batch_are_on_their_way_before_it_is_wanted(
    folder, server, monkeypatch
):
    monkeypatch.setattr(remote, "READS", 4)
    data, near = dataset(f"{server.address}/tars/shard-{{000000..000002}}.tar"), dataset(folder)
    for number in range(3):
        data.shard_sets[0].shard(number)
    server.asked.clear()
    first = [(i, 0, i + 10) for i in range(10)]
    found = data.__getitems__(first)
    until = time.monotonic() + 20
    while len(server.asked) < 14 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(server.asked) == 14 and len(data._coming._begun) == 4
    assert pickle.loads(pickle.dumps(data))._coming._begun == {}  # what is on its way stays behind
    found += data.__getitems__([(i, 0) for i in range(10, 20)])
    assert len(server.asked) == 20 and data._coming._begun == {}
    wanted = near.__getitems__([(i, 0) for i in range(20)])
    assert equal(collate(found), collate(wanted))


def test_a_process_forked_off_one_that_has_read_says_what_to_do(folder, server):
    shards = ShardSet(f"{server.address}/tars/shard-000000.tar")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            read_ahead([(shards, 0)])
        except ValueError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as told:
        assert "multiprocessing_context='forkserver'" in told.read()


def test_a_process_forked_before_anything_was_read_reads(folder, server, monkeypatch):
    monkeypatch.setattr(remote._client, "process", -1)
    assert len(everything(ShardSet(f"{server.address}/tars/shard-000000.tar"))) == 12


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("https://me:hunter2@h.org/a.tar", "no user or password"),
        ("s3://me:hunter2@bucket/a.tar", "no user or password"),
        ("https://h.org/a.tar?sig=hunter2", "a query cannot be used"),
        ("https://h.org/a.tar#hunter2", "a query cannot be used"),
        ("ftp://me:hunter2@h.org/a.tar", "local files, or at s3://"),
        ("s3://bucket", "scheme://host/path"),
        ("https://h.org/a/*.tar", "name the tars one by one"),
        ("https://h.org/a/", "name the tars one by one"),
        ("s3://bucket/*/a.tar", "only the last part"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused_without_their_secrets(name, why):
    with pytest.raises(ValueError, match=why) as told:
        expand(name)
    assert "hunter2" not in str(told.value)


def test_no_secret_of_an_answer_or_of_the_environment_is_told(folder, server, monkeypatch):
    at_s3(server, monkeypatch)
    server.secret = "hunter3"  # what the server wants, and quotes
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(ValueError, match="access is denied") as told:
        ShardSet("s3://tars/shard-000000.tar")
    server.secret, server.always = "", 503
    with pytest.raises(Lost) as lost:
        remote.read(address("s3://tars/shard-000000.tar"), 0, 9)
    shown = [str(told.value), str(lost.value), repr(lost.value), str(lost.value.__cause__)]
    assert not any("hunter" in one for one in shown)
    assert "s3://tars/shard-000000.tar" in shown[1] and lost.value.__context__ is None


def test_without_the_library_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"pip install 'sparc-transfer\[remote\]'"):
        expand("s3://bucket/a.tar")


@pytest.mark.parametrize(("scheme", "sign_in"), [("s3", at_s3), ("gs", at_gs)])
def test_buckets_are_listed_and_read(folder, server, monkeypatch, scheme, sign_in):
    sign_in(server, monkeypatch)
    near = ShardSet(folder)
    (folder / "deeper").mkdir()
    shutil.copy(folder / "shard-000000.tar", folder / "deeper" / "shard-000009.tar")
    for name in ("*.tar", "shard-00000?.tar", "", "shard-{000000..000002}.tar"):
        assert [one.name for one in expand(f"{scheme}://tars/{name}")] == [
            path.name for path in near.paths
        ]
    far = ShardSet(f"{scheme}://tars/*.tar")
    assert far.sha256 == near.sha256 and everything(far) == [near.read(i) for i in range(30)]
    assert [one.name for one in expand(f"{scheme}://tars/deeper/")] == ["shard-000009.tar"]
    with pytest.raises(FileNotFoundError, match=r"no \.tar file here"):
        expand(f"{scheme}://tars/none-*.tar")


def test_names_with_blanks_and_signs_are_read(tmp_path, server):
    made = write_shards(pairs(2), tmp_path / "some tars")[0]
    made.rename(made.with_name("a+b (1).tar"))
    for name in ("some%20tars/a%2Bb%20(1).tar", "some tars/a+b (1).tar"):
        assert ShardSet(f"{server.address}/{name}").read(1).key == "000001"
