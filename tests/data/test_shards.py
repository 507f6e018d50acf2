"""Shards: written whole, indexed once, read at random, damaged ones told and survived."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sparc_pretrain.data import shard_index
from sparc_pretrain.data.shard_index import index_file
from sparc_pretrain.data.shards import ShardIndex, ShardSet, expand, write_shards


def pairs(n: int, first: int = 0):
    for i in range(first, first + n):
        yield f"{i:06d}", f"image {i}".encode() * 50, "jpg", [f"caption {i}"]


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tar(tmp_path) -> Path:
    return write_shards(pairs(10), tmp_path)[0]


def test_written_samples_are_read_back_at_random(tmp_path):
    paths = write_shards(pairs(25), tmp_path, shard_size=10, prefix="train-")
    assert [path.name for path in paths] == [f"train-00000{i}.tar" for i in range(3)]
    shards = ShardSet(tmp_path)
    assert len(shards) == 25 and shards.sizes.tolist() == [10, 10, 5] and not shards.bad
    for i in (24, 0, 13, 9, 10):
        assert shards.read(i) == (
            f"{i:06d}",
            f"image {i}".encode() * 50,
            f"caption {i}".encode(),
            0,
        )
    with pytest.raises(IndexError):
        shards.read(25)


def test_several_captions_become_json(tmp_path):
    write_shards([("a", b"x", "png", ["one", "zwei ü"])], tmp_path)
    raw = ShardSet(tmp_path).read(0)
    assert raw.is_json and json.loads(raw.text) == {"captions": ["one", "zwei ü"]}


@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_our_tars_and_agrees(tmp_path):
    import webdataset

    path = write_shards(pairs(7), tmp_path)[0]
    read = list(webdataset.WebDataset(str(path), shardshuffle=False))
    ours = ShardIndex.open(path)
    assert len(read) == len(ours) == 7
    for i, sample in enumerate(read):
        assert (sample["__key__"], sample["jpg"], sample["txt"]) == ours.read(i)[:3]


@pytest.mark.filterwarnings("ignore")
def test_we_read_webdataset_s_tars(tmp_path):
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "w.tar")) as sink:
        for i in range(5):
            sink.write({"__key__": f"dir/{i}", "JPG".lower(): b"x%d" % i, "json": {"caption": "c"}})
    index = ShardIndex.open(tmp_path / "w.tar")
    assert [index.key(i) for i in range(5)] == [f"dir/{i}" for i in range(5)]
    assert index.read(3)[1:] == (b"x3", b'{"caption": "c"}', True)


def test_equal_pairs_make_equal_tars(tmp_path):
    one, two = (write_shards(pairs(5), tmp_path / name)[0] for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_writing_refuses_to_overwrite_and_overwriting_drops_the_rest(tmp_path):
    write_shards(pairs(30), tmp_path, shard_size=10)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_shards(pairs(5), tmp_path)
    write_shards(pairs(5), tmp_path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "shard-000000.tar",
        "shard-000000.tar.index",
    ]
    assert len(ShardSet(tmp_path)) == 5


def test_overwriting_leaves_tars_of_a_longer_prefix_alone(tmp_path):
    write_shards(pairs(3), tmp_path, prefix="coco2017-")
    write_shards(pairs(3), tmp_path, prefix="coco")  # nothing is in the way
    write_shards(pairs(4), tmp_path, prefix="coco", overwrite=True)
    assert [p.name for p in sorted(tmp_path.glob("*.tar"))] == [
        "coco000000.tar",
        "coco2017-000000.tar",
    ]


def test_a_copied_tar_on_read_only_media_is_probed_once(tmp_path, monkeypatch):
    path = write_shards(pairs(3), tmp_path / "tars")[0]
    os.utime(path, (1, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside, write, probed = index_file(path), shard_index.atomic_write, []

    def refuse(file, fill, **options):
        if file == beside:
            raise PermissionError("read-only")
        write(file, fill, **options)

    probe = shard_index._probe
    monkeypatch.setattr(shard_index, "atomic_write", refuse)
    monkeypatch.setattr(shard_index, "_probe", lambda *of: probed.append(of[0]) or probe(*of))
    for _ in range(3):
        assert len(ShardIndex.open(path)) == 3
    assert probed == [path]


def test_an_index_waits_for_no_disk_and_one_that_a_power_cut_emptied_is_made_again(
    tmp_path, monkeypatch
):
    """Of 100,000 tars the waits would be most of the time; a tar itself is waited for."""
    waits, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: waits.append(handle) or sync(handle))
    path = write_shards(pairs(3), tmp_path)[0]
    assert len(waits) == 2  # the tar, and its name in the folder
    whole = index_file(path).read_bytes()
    index_file(path).write_bytes(b"")
    assert len(ShardIndex.open(path)) == 3
    assert index_file(path).read_bytes() == whole and len(waits) == 2


def test_a_user_without_a_home_reads_indexed_tars(tmp_path, monkeypatch):
    path = write_shards(pairs(3), tmp_path)[0]
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda name: name)  # what it does without one
    assert len(ShardIndex.open(path)) == 3
    index_file(path).unlink()
    assert len(ShardIndex.open(path)) == 3


def test_members_that_make_no_sample_are_named_as_the_reason(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("p.v1.jpg", "p.v1.txt"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match="2 members of other kinds, or with several dots"):
        ShardSet(tmp_path / "a.tar")


def test_a_failure_while_writing_leaves_no_half_tar(tmp_path):
    def failing():
        yield from pairs(12)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        write_shards(failing(), tmp_path, shard_size=10)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".index", ".tar"]
    assert len(ShardSet(tmp_path)) == 10


@pytest.mark.parametrize(
    "pair",
    [
        ("a.b", b"", "jpg", ["c"]),
        ("", b"", "jpg", ["c"]),
        ("a", b"", "exe", ["c"]),
        ("a", b"", "jpg", []),
    ],
)
def test_unusable_pairs_are_refused_by_the_writer(tmp_path, pair):
    with pytest.raises(ValueError):
        write_shards([pair], tmp_path)


def test_the_same_key_twice_is_refused_by_the_writer(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        write_shards([*pairs(1), *pairs(1)], tmp_path)


def test_the_index_is_built_once_and_mapped(tar, monkeypatch):
    monkeypatch.setattr(shard_index, "scan", None)  # would fail
    index = ShardIndex.open(tar)
    assert isinstance(index.rows, np.memmap)
    assert index.rows.dtype.itemsize < 60, "bytes per sample"


def test_a_changed_tar_gets_a_new_index(tar):
    before = ShardIndex.open(tar).sha256
    make_tar(tar, [("x.jpg", b"1"), ("x.txt", b"t")])
    index = ShardIndex.open(tar)
    assert len(index) == 1 and index.sha256 != before and index.read(0).image == b"1"


def test_a_tar_of_the_same_size_but_other_content_gets_a_new_index(tar):
    data = bytearray(tar.read_bytes())
    data[512] ^= 0xFF
    tar.write_bytes(data)
    os.utime(tar, ns=(1, 1))
    assert ShardIndex.open(tar).read(0).image[0] == b"i"[0] ^ 0xFF
    assert ShardIndex.open(tar).header["mtime_ns"] == 1


def test_a_copied_tar_keeps_its_index_without_its_data_being_read(tar, monkeypatch):
    os.utime(tar, ns=(5, 5))
    monkeypatch.setattr(shard_index, "scan", None)
    assert len(ShardIndex.open(tar)) == 10
    monkeypatch.setattr(shard_index, "_probe", None)  # the new time was written down
    assert len(ShardIndex.open(tar)) == 10


def test_verifying_finds_a_change_that_size_and_time_hide(tar):
    stat = tar.stat()
    data = bytearray(tar.read_bytes())
    data[512] ^= 0xFF
    tar.write_bytes(data)
    os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    old = ShardIndex.open(tar).sha256
    assert ShardIndex.open(tar, verify=True).sha256 != old


def test_no_damaged_index_hands_out_other_bytes(tar):
    sound = index_file(tar).read_bytes()
    want = [ShardIndex.open(tar).read(i) for i in range(10)]
    generator = np.random.default_rng(0)
    for bit in generator.integers(8 * len(sound), size=400).tolist():
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        index_file(tar).write_bytes(flipped)
        index = ShardIndex.open(tar)
        assert [index.read(i) for i in (0, 9)] == [want[0], want[9]]
        assert index_file(tar).read_bytes() == sound  # made again


def signed(header: dict, rows: np.ndarray) -> bytes:
    """An index with a checksum that holds, whatever it says."""
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + rows.tobytes()
    return shard_index.FORMAT + hashlib.sha256(body).digest() + body


def test_an_index_that_points_outside_of_its_tar_is_made_again(tar):
    index = ShardIndex.open(tar)
    header, size = index.header, tar.stat().st_size
    assert signed(header, index.rows) == index_file(tar).read_bytes()
    for name, value in [
        ("image", -5),
        ("image", size),
        ("image_size", size),
        ("image_size", 1 << 62),
        ("text_size", size),
        ("text_size", -1),
        ("text", -1),
    ]:
        rows = index.rows.copy()
        rows[name][3] = value
        index_file(tar).write_bytes(signed(header, rows))
        assert ShardIndex.open(tar).read(3).text == b"caption 3"
    for change in ({"key_width": 10**12}, {"samples": 7}, {"size": "x"}, {"key_width": None}):
        index_file(tar).write_bytes(signed(header | change, index.rows))
        assert ShardIndex.open(tar).read(3).text == b"caption 3"
    index_file(tar).write_bytes(signed([1], index.rows[:0]))  # type: ignore[arg-type]
    assert ShardIndex.open(tar).read(3).text == b"caption 3"


@pytest.mark.parametrize("junk", [b"", b"garbage", pickle.dumps([1])])
def test_a_broken_index_file_is_replaced(tar, junk):
    index_file(tar).write_bytes(junk)
    assert len(ShardIndex.open(tar)) == 10
    assert index_file(tar).read_bytes() != junk


def test_an_index_file_with_a_pickle_in_it_is_never_unpickled(tar, tmp_path):
    canary = tmp_path / "canary"
    np.save(index_file(tar), np.array([Canary(canary)], dtype=object), allow_pickle=True)
    assert len(ShardIndex.open(tar)) == 10
    assert not canary.exists()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_members_are_ignored_counted_and_never_unpickled(tmp_path):
    canary = tmp_path / "canary"
    evil = pickle.dumps(Canary(canary))
    members = [("1.jpg", b"i"), ("1.pkl", evil), ("1.pth", evil), ("1.pyd", evil), ("1.txt", b"t")]
    index = ShardIndex.open(make_tar(tmp_path / "a.tar", members))
    assert index.read(0) == ("1", b"i", b"t", False) and index.ignored == 3
    assert not canary.exists()


def test_a_folder_that_cannot_be_written_uses_the_cache(tar, monkeypatch):
    index_file(tar).unlink()
    refuse(monkeypatch, tar.parent)
    index = ShardIndex.open(tar)
    assert not index.in_memory and not index_file(tar).exists()
    monkeypatch.setattr(shard_index, "scan", None)
    assert ShardIndex.open(tar).read(2).text == b"caption 2"


def test_without_any_place_to_write_the_index_stays_in_memory(tar, monkeypatch):
    index_file(tar).unlink()
    refuse(monkeypatch, Path("/"))
    shards = ShardSet(tar)
    monkeypatch.setattr(shard_index, "scan", None)  # reading does not build it again
    assert shards.read(2).text == b"caption 2"
    assert pickle.loads(pickle.dumps(shards)).read(3).text == b"caption 3"


def refuse(monkeypatch, folder: Path) -> None:
    """Nothing below `folder` can be written (root, whom chmod does not stop, may run the tests)."""
    real = shard_index.atomic_write

    def atomic_write(path, write, **options):
        if path.is_relative_to(folder):
            raise PermissionError(13, "read-only", str(path))
        real(path, write, **options)

    monkeypatch.setattr(shard_index, "atomic_write", atomic_write)


def test_names_that_climb_and_links_and_devices_touch_nothing(tmp_path):
    path = tmp_path / "shards" / "evil.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name, kind in (("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        device = tarfile.TarInfo("d.jpg")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
        for name in ("../../x.jpg", "../../x.txt", "/abs/y.jpg", "/abs/y.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"z"))
    before = sorted(tmp_path.rglob("*"))
    index = ShardIndex.open(path)
    assert [index.key(i) for i in range(len(index))] == ["../../x", "/abs/y"]
    assert index.ignored == 3 and index.read(0).image == b"z"
    assert sorted(tmp_path.rglob("*")) == sorted([*before, index_file(path)])


def test_samples_before_a_truncation_are_used(tmp_path):
    path = write_shards(pairs(10), tmp_path)[0]
    path.write_bytes(path.read_bytes()[: 4 * 2048 + 700])  # a sample takes 2,048 bytes here
    shards = ShardSet(path)
    assert 4 <= len(shards) <= 5
    assert shards.read(3).text == b"caption 3"
    assert shards.bad[0].shard == str(path) and "truncated" in shards.bad[0].reason


@pytest.mark.parametrize("cut", [0, 4 * 2048])
def test_a_tar_cut_between_samples_is_told(tmp_path, cut):
    path = write_shards(pairs(10), tmp_path)[0]
    path.write_bytes(path.read_bytes()[:cut])
    index = ShardIndex.open(path)
    assert len(index) == cut // 2048 and index.problem


def test_garbage_in_the_middle_of_a_tar_is_told(tmp_path):
    path = write_shards(pairs(10), tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[4 * 2048 : 5 * 2048] = b"\x5a" * 2048
    path.write_bytes(data)
    index = ShardIndex.open(path)
    assert len(index) == 4 and index.problem


def test_bad_tars_among_good_ones_are_listed_with_their_reason(tmp_path):
    good = write_shards(pairs(3), tmp_path)[0]
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "garbage.tar").write_bytes(b"<html>" * 1000)
    make_tar(tmp_path / "captions-only.tar", [("1.txt", b"t"), ("2.txt", b"t")])
    make_tar(tmp_path / "nothing.tar", [])
    names = ["empty", "garbage", "captions-only", "nothing", "missing"]
    shards = ShardSet([good, *(tmp_path / f"{name}.tar" for name in names)])
    assert [Path(bad.shard).stem for bad in shards.bad] == names
    assert all(bad.key == "" and bad.reason for bad in shards.bad)
    assert shards.bad[-1].reason == "missing" and len(shards) == 3
    with pytest.raises(ValueError, match="no sample"):
        ShardSet(tmp_path / "garbage.tar")


def test_a_sample_without_caption_is_kept_with_none_and_txt_goes_before_json(tmp_path):
    members = [("1.jpg", b"a"), ("2.jpg", b"b"), ("2.json", b"{}"), ("2.txt", b"t")]
    members += [("3.txt", b"u"), ("3.json", b"{}"), ("3.jpeg", b"c")]
    index = ShardIndex.open(make_tar(tmp_path / "a.tar", members))
    assert index.read(0).text is None
    assert index.read(1) == ("2", b"b", b"t", False)
    assert index.read(2) == ("3", b"c", b"u", False)


def test_duplicate_keys_are_two_samples(tmp_path):
    members = [("1.jpg", b"a"), ("1.txt", b"t"), ("1.jpg", b"b"), ("1.txt", b"u")]
    index = ShardIndex.open(make_tar(tmp_path / "a.tar", members))
    assert [index.read(i)[1:3] for i in range(2)] == [(b"a", b"t"), (b"b", b"u")]


@pytest.mark.filterwarnings("ignore")
def test_of_two_images_of_one_key_the_first_kind_counts_and_the_other_is_ignored(tmp_path):
    import webdataset

    members = [("1.jpg", b"photo"), ("1.json", b"{}"), ("1.png", b"mask"), ("1.txt", b"t")]
    members += [("2.webp", b"w"), ("2.png", b"p"), ("2.txt", b"u"), ("3.jpeg", b"only")]
    path = make_tar(tmp_path / "a.tar", members)
    index = ShardIndex.open(path)
    assert [index.read(i)[:3] for i in range(3)] == [
        ("1", b"photo", b"t"),
        ("2", b"p", b"u"),
        ("3", b"only", None),
    ]
    assert index.ignored == 2 and index.without_caption == 1 and not index.problem
    samples = webdataset.WebDataset(str(path), shardshuffle=False)
    assert [sample["__key__"] for sample in samples] == ["1", "2", "3"]


def test_very_long_names_are_read(tmp_path):
    name = "n" * 300
    index = ShardIndex.open(make_tar(tmp_path / "a.tar", [(name + ".jpg", b"a")]))
    assert index.read(0).image == b"a" and index.key(0) == "n" * shard_index.KEY_BYTES


@pytest.mark.parametrize("url", ["pipe:touch canary", "ftp://x/a.tar", "hdfs://b/{0..1}.tar"])
def test_addresses_and_commands_are_refused(url):
    with pytest.raises(ValueError, match="local files"):
        expand(url)


def test_folders_braces_stars_and_lists_are_expanded(tmp_path):
    paths = write_shards(pairs(3), tmp_path, shard_size=1)
    braces = str(tmp_path / "shard-{000000..000002}.tar")
    for shards in (tmp_path, braces, str(tmp_path / "*.tar"), paths, [braces]):
        assert expand(shards) == paths
    with pytest.raises(FileNotFoundError, match=r"tools/data\.py"):
        expand(tmp_path / "none-*.tar")


def test_few_files_stay_open_and_a_closed_shard_opens_again(tmp_path, monkeypatch):
    monkeypatch.setattr("sparc_pretrain.data.shards.OPEN_SHARDS", 64)
    write_shards(pairs(200), tmp_path, shard_size=1)
    shards = ShardSet(tmp_path)
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(2):
        assert [shards.read(i).key for i in range(200)] == [f"{i:06d}" for i in range(200)]
    if open_files is not None:
        assert len(os.listdir("/proc/self/fd")) - open_files < 200


def test_a_tar_that_shrinks_while_in_use_is_an_os_error(tar):
    shards = ShardSet(tar)
    shards.read(0)
    with open(tar, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(OSError, match="shorter"):
        shards.read(9)


def test_a_forked_child_and_its_parent_read_the_same_tar(tar):
    shards = ShardSet(tar)
    shards.read(0)
    child = os.fork()
    if child == 0:
        ok = all(shards.read(i).key == f"{i:06d}" for i in range(10) for _ in range(20))
        os._exit(0 if ok else 1)
    assert all(shards.read(i).key == f"{i:06d}" for i in range(10) for _ in range(20))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_tar_or_no_index_is_not_waited_for(tmp_path, make):
    write_shards(pairs(3), tmp_path / "sound")
    make(tmp_path / "sound" / "shard-000001.tar")
    found = ShardSet(tmp_path / "sound")
    assert len(found) == 3 and [Path(bad.shard).name for bad in found.bad] == ["shard-000001.tar"]
    index = index_file(tmp_path / "sound" / "shard-000000.tar")
    index.unlink()
    make(index)
    assert len(ShardSet(tmp_path / "sound" / "shard-000000.tar")) == 3
