"""The scanner of tars against the standard library's, and against tars that lie."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sparc_pretrain.data import tar_samples, tar_scan
from sparc_pretrain.data.tar_scan import scan

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def make(path: Path, members: list, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for info, data in members:
            tar.addfile(info, data)
    return path


def samples(path: Path) -> list[tuple[bytes, bytes, bytes | None]]:
    data = path.read_bytes()
    found = []
    for row in scan(path).rows:
        image = data[row["image"] :][: row["image_size"]]
        text = data[row["text"] :][: row["text_size"]] if row["text"] >= 0 else None
        found.append((bytes(row["key"]), image, text))
    return found


def by_tarfile(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """The same of a tar of pairs that stand one behind the other."""
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isreg() and not m.issparse()}
    names = [name[:-4] for name in files if name.endswith(".jpg")]
    cut = tar_samples.KEY_BYTES
    return [(n.encode()[:cut], files[f"{n}.jpg"], files[f"{n}.txt"]) for n in names]


@pytest.mark.parametrize("kind", FORMATS)
def test_samples_are_those_that_the_standard_library_finds(tmp_path, kind):
    generator = np.random.default_rng(0)
    names = [f"{i:05d}" for i in range(40)] + [
        "a/b/c",
        "d" * 90,
        "ü" * 20 if kind != "ustar" else "u",
    ]
    names += [f"{'e' * 80}/{'f' * 60}"]  # ustar's prefix, GNU's long name, a pax header
    names += ["g" * 96, "h" * 97] if kind == "ustar" else ["g" * 300, "h" * 97]
    if kind == "ustar":
        names.remove("h" * 97)
    members = [member("folder/", kind=tarfile.DIRTYPE)]
    for number, name in enumerate(names):
        for extension in ("jpg", "txt"):
            step = 512 if number % 3 == 0 or len(name) > 90 else 1  # whole blocks, too
            data = generator.bytes(int(generator.integers(0, 5000)) // step * step)
            members.append(member(f"{name}.{extension}", data, mtime=1.5 if kind == "pax" else 1))
    members.insert(7, member("link.jpg", kind=tarfile.SYMTYPE, linkname="/etc/passwd"))
    members.insert(9, member("device.jpg", kind=tarfile.CHRTYPE))
    path = make(tmp_path / "a.tar", members, FORMATS[kind])
    assert samples(path) == by_tarfile(path)
    assert scan(path).ignored == 2 and scan(path).problem == ""


def test_sizes_in_base_256_and_old_checksums_are_read(tmp_path):
    path = make(tmp_path / "a.tar", [member("1.jpg", b"image"), member("1.txt", b"text")])
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    path.write_bytes(sealed(data))
    assert samples(path) == [(b"1", b"image", b"text")]
    header = np.frombuffer(bytes(data[:512]), np.int8).astype(int)
    data[0] = 0xC3  # a name with a byte above 127, summed as a signed one
    header = np.frombuffer(bytes(data[:148] + b" " * 8 + data[156:512]), np.int8).astype(int)
    data[148:156] = b"%06o\0 " % header.sum()
    path.write_bytes(data)
    assert len(scan(path).rows) == 1 and scan(path).problem == ""


@pytest.mark.parametrize("written", [b"%07o\0", b"%6o\0 ", b"%06o \0", b"%07o "])
def test_checksums_are_read_however_they_are_written(tmp_path, written):
    path = make(tmp_path / "a.tar", [member("1.jpg", b"image"), member("1.txt", b"text")])
    raw = bytearray(path.read_bytes())
    raw[148:156] = b" " * 8
    raw[148:156] = written % sum(raw[:512])
    path.write_bytes(raw)
    assert samples(path) == [(b"1", b"image", b"text")] and scan(path).problem == ""
    raw[100] ^= 1  # of the mode, which nothing else looks at
    path.write_bytes(raw)
    assert not len(scan(path).rows) and scan(path).problem.startswith("damaged")


def test_a_checksum_that_is_no_octal_number_is_damage_though_its_digits_add_up(tmp_path):
    path = make(tmp_path / "a.tar", [member("1.jpg", b"image"), member("1.txt", b"text")])
    raw = bytearray(path.read_bytes())
    raw[150], raw[151] = raw[150] - 1, raw[151] + 8  # as 0o10 = 8
    path.write_bytes(raw)
    assert not len(scan(path).rows) and scan(path).problem.startswith("damaged")


def test_what_stands_behind_the_end_of_a_name_is_no_part_of_it(tmp_path):
    path = make(tmp_path / "a.tar", [member("1.jpg", b"image"), member("1.txt", b"text")])
    raw = bytearray(path.read_bytes())
    raw[6:11] = b".webp"  # 1.jpg, zero, .webp
    raw[1024 + 1 : 1024 + 8] = b"\0junk.t"  # a name without an ending
    path.write_bytes(sealed(sealed(raw), 1024))
    assert samples(path) == [(b"1", b"image", None)] and scan(path).ignored == 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_samples_are_the_same_however_many_are_packed_at_once(tmp_path, monkeypatch, batch):
    names = ["1", "2" * 30, "a/b", "3"]
    members = [member(f"{name}.{e}", e.encode()) for name in names for e in ("jpg", "json")]
    path = make(tmp_path / "a.tar", [*members, member("4.jpg", b"jpg")])
    whole = scan(path).rows
    assert whole["is_json"].tolist() == [True] * 4 + [False] and len(samples(path)) == 5
    monkeypatch.setattr(tar_samples, "BATCH", batch)
    monkeypatch.setattr(tar_scan, "BATCH", batch)
    assert scan(path).rows.tolist() == whole.tolist()


def sealed(raw: bytearray, at: int = 0) -> bytearray:
    """The tar with a sound checksum of the header at `at`."""
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    return raw


def test_a_size_beyond_the_header_is_that_of_its_pax_header(tmp_path):
    members = [member("p", b"9 size=5\n", kind=b"x"), member("1.jpg", b"image")]
    path = make(tmp_path / "a.tar", [*members, member("1.txt", b"t")], tarfile.USTAR_FORMAT)
    raw = bytearray(path.read_bytes())
    raw[1024 + 124 : 1024 + 136] = b"%011o\0" % 0
    path.write_bytes(sealed(raw, 1024))
    assert samples(path) == [(b"1", b"image", b"t")] and scan(path).problem == ""


def test_a_sparse_file_of_a_pax_header_is_passed_over(tmp_path):
    """What is stored of it is its map and pieces, no image."""
    members = [member("p", b"22 GNU.sparse.major=1\n", kind=b"x"), member("0.jpg", b"1\n0\n5\nx")]
    path = make(tmp_path / "a.tar", [*members, member("1.jpg", b"image")], tarfile.USTAR_FORMAT)
    assert samples(path) == [(b"1", b"image", None)] and scan(path).ignored == 1


def test_gnu_s_times_where_ustar_has_its_prefix_are_no_part_of_a_name(tmp_path):
    path = make(tmp_path / "a.tar", [member("1.jpg", b"image")], tarfile.GNU_FORMAT)
    raw = bytearray(path.read_bytes())
    raw[345:357] = b"14000000000\0"
    path.write_bytes(sealed(raw))
    assert samples(path) == [(b"1", b"image", None)]


def test_hidden_files_are_no_samples_and_of_two_captions_the_text_counts(tmp_path):
    hidden = [member(name, b"x") for name in (".jpg", "a/.jpg", "a/.txt")]
    both = [member("1.json", b"{}"), member("1.JPG", b"image"), member("1.txt", b"t")]
    path = make(tmp_path / "a.tar", [*hidden, *both])
    assert samples(path) == [(b"1", b"image", b"t")] and scan(path).ignored == 3
    assert not scan(path).rows["is_json"].any()


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_sparse_file_is_passed_over_with_its_map(tmp_path, blocks):
    """GNU's old sparse format: 21 more places in each block of their own, then the data."""
    info, data = member("big.jpg", b"x" * 700)
    path = make(
        tmp_path / "a.tar",
        [(info, data), member("1.jpg", b"image"), member("1.txt", b"t")],
        tarfile.GNU_FORMAT,
    )
    raw = bytearray(path.read_bytes())
    raw[156:157] = b"S"
    raw[482] = 1
    sealed(raw)
    for last in range(blocks):  # the one put in last stands first
        raw[512:512] = bytes(504) + bytes([last > 0]) + bytes(7)
    path.write_bytes(raw)
    assert samples(path) == [(b"1", b"image", b"t")] and scan(path).ignored == 1


@pytest.mark.parametrize("flag", [b"x", b"L", b"K", b"g", b"X"])
@pytest.mark.parametrize(
    "size", [b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"00001000000"]
)
def test_a_forged_size_of_a_name_takes_no_memory_and_is_told(tmp_path, flag, size):
    good = [member("1.jpg", b"image"), member("1.txt", b"text")]
    path = make(tmp_path / "a.tar", [*good, member("2.jpg", b"x" * 2000)])
    data = bytearray(path.read_bytes())
    data[2048 + 156 : 2048 + 157] = flag
    data[2048 + 124 : 2048 + 136] = size.ljust(12, b"\0")
    path.write_bytes(sealed(data, 2048))
    tracemalloc.start()
    found = scan(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.rows) == 1 and found.problem and peak < 4e6


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"99999 path=x\n",
        b"5 a=\n",
        b"-3 a=b\n",
        b"0 a=b\n",
        b"20 size=99999999999\n",
        b"12 size=-50\n",
        b"9" * 5000 + b" path=x\n",
    ],
)
def test_a_forged_pax_header_is_told_and_what_stands_before_it_is_used(tmp_path, body):
    members = [member("1.jpg", b"image"), member("1.txt", b"t"), member("p", body, kind=b"x")]
    found = scan(make(tmp_path / "a.tar", [*members, member("2.jpg", b"x")], tarfile.USTAR_FORMAT))
    assert bytes(found.rows[0]["key"]) == b"1"
    assert found.problem or len(found.rows) == 2


def test_no_flipped_bits_raise_or_point_outside(tmp_path):
    members = [member(f"{i}.{e}", b"x" * 40 * i) for i in range(20) for e in ("jpg", "txt")]
    members.insert(6, member("n" * 200 + ".jpg", b"long"))
    sound = make(tmp_path / "a.tar", members).read_bytes()
    generator = np.random.default_rng(1)
    path = tmp_path / "b.tar"
    for _ in range(400):
        data = bytearray(sound)
        for bit in generator.integers(8 * len(data), size=generator.integers(1, 9)).tolist():
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data[: generator.integers(len(data) + 1)] if bit % 3 == 0 else data)
        rows = scan(path).rows
        end = path.stat().st_size
        assert (rows["image"] >= 0).all() and (rows["image"] + rows["image_size"] <= end).all()
        assert (rows["text"] + rows["text_size"] <= end).all()


def test_a_damaged_header_far_behind_ends_the_samples_there(tmp_path, monkeypatch):
    """Checksums are compared many at a time; none of those behind the damage is used."""
    members = [member(f"{i:03d}.{e}", b"x") for i in range(100) for e in ("jpg", "txt")]
    path = make(tmp_path / "a.tar", members)
    data = bytearray(path.read_bytes())
    data[2048 * 50] ^= 1  # the name of the 51st image
    path.write_bytes(data)
    for batch in (1, 7, 4096):
        monkeypatch.setattr(tar_scan, "BATCH", batch)
        found = scan(path)
        assert len(found.rows) == 50 and found.problem == "damaged or truncated after 50 samples"


@pytest.mark.parametrize("sample", [50, 99])
def test_a_caption_behind_a_damaged_header_is_nobodys(tmp_path, monkeypatch, sample):
    members = [member(f"{i:03d}.{e}", b"x") for i in range(100) for e in ("jpg", "txt")]
    path = make(tmp_path / "a.tar", members)
    data = bytearray(path.read_bytes())
    place = 2048 * sample + 1024
    data[place + 136] ^= 1  # the time of a caption: its name and size are as they were
    path.write_bytes(data)
    for batch in (1, 7, 4096):
        monkeypatch.setattr(tar_scan, "BATCH", batch)
        rows = scan(path).rows
        assert sample <= len(rows) <= sample + 1 and (rows["text"] < place).all()
        assert (rows["image"] < place).all()


def test_a_checksum_of_an_unusual_layout_is_read_with_all_its_digits():
    seen = set()
    for n in range(200):
        header = bytearray(tarfile.TarInfo(f"{n}.jpg").tobuf()[:512])
        told = f"{sum(header[:148]) + 8 * 32 + sum(header[156:]):o}"
        header[148:156] = told.rjust(7).encode() + b"\0"
        seen |= set(told)
        assert tar_scan._holds(bytes(header)), told
    assert seen == set("01234567")


ALIKE = {
    "pairs": [f"{n:06d}.{kind}" for n in range(40) for kind in ("jpg", "txt")],
    "three of a sample, in a folder": [
        f"./a.b/{n:06d}.{kind}" for n in range(30) for kind in ("json", "jpeg", "txt")
    ],
    "images alone": [f"{n:06d}.png" for n in range(80)],
    "JSON alone beside": [f"{n:06d}.{kind}" for n in range(40) for kind in ("jpg", "json")],
    "capitals": [f"{n:06d}.{kind}" for n in range(40) for kind in ("JPG", "txt")],
    "a mask beside": [f"{n:06d}.{kind}" for n in range(30) for kind in ("png", "jpg", "txt")],
    "another kind beside": [f"{n:06d}.{kind}" for n in range(30) for kind in ("jpg", "txt", "cls")],
    "captions alone": [f"{n:06d}.txt" for n in range(80)],
    "long keys": [f"{'k' * 220}{n:06d}.{kind}" for n in range(40) for kind in ("jpg", "txt")],
}
CHANGES = [
    lambda names: [*names[:41], "000020.json", *names[41:]],  # three members, once
    lambda names: names[:20] + names[18:],  # a sample twice
    lambda names: [*names[:10], names[10].replace("0", "x", 1), *names[11:]],  # another key
    lambda names: names[:11] + names[12:],  # a member is missing
    lambda names: [*names[:12], "d/" + names[12], "d/" + names[13], *names[14:]],
    lambda names: [*names[:12], names[12].replace("0000", "0.00", 1), *names[13:]],
    lambda names: [*names[:12], names[12].replace("0000", "0/00", 1), *names[13:]],
    lambda names: [*names[:12], names[12] + "x", *names[13:]],
    lambda names: [*names[:13], names[13][:-3] + "cls", *names[14:]],  # another kind, once
    lambda names: [names[-1], *names],
    lambda names: names,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ALIKE)
def test_members_that_are_named_alike_are_grouped_as_one_by_one(kind, change):
    """At once, in parts, one by one; the first parts of a batch's last sample may come later."""
    names = [name.encode() for name in change(ALIKE[kind])]
    places = [1024 * n for n in range(len(names))]
    for hidden in (None, 31):
        sizes = [n + 1 if n != hidden else -1 for n in range(len(names))]
        found = []
        for part in (1, 67, 70, len(names)):
            samples = tar_samples.Samples()
            for start in range(0, len(names), part):
                rows = slice(start, start + part)
                samples.add(names[rows], places[rows], sizes[rows])
            found.append((samples.packed().tolist(), samples.ignored))
        assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("before", ["000000.json", "x.json", "x.png"])
def test_what_stands_before_members_that_are_named_alike_is_a_sample_of_its_own_or_theirs(before):
    names = [before, *(f"{n:06d}.png" for n in range(80))]
    names = [name.encode() for name in names]
    found = []
    for part in (1, 80):
        samples = tar_samples.Samples()
        samples.add([b"w.png", *names[:1]], [7, 8], [1, 1])
        for start in range(1, 81, part):
            rows = slice(start, min(start + part, 81))
            samples.add(names[rows], list(range(20, 101))[rows], [1] * len(names[rows]))
        found.append((samples.packed().tolist(), samples.ignored))
    assert found[0] == found[1] and found[0][0][0][0] == b"w"
    assert found[0][1] == (before == "x.json")  # nobody's caption


def test_an_array_is_made_of_members_that_are_named_alike():
    """Else the test above says nothing."""
    for kind, period in zip(list(ALIKE)[:5], (2, 3, 1, 2, 2), strict=True):
        samples = tar_samples.Samples()
        names = [name.encode() for name in ALIKE[kind]]
        count = len(names)
        assert samples._alike(names, list(range(count)), [1] * count) == count - period
    for kind in list(ALIKE)[5:]:
        names = [name.encode() for name in ALIKE[kind]]
        assert samples._alike(names, [0] * len(names), [1] * len(names)) == 0
