"""The optimizer's state in parts, a file from every process."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint, shards
from tests.small_pretraining import (  # noqa: F401 (fixtures)
    config_text_as_it_is,
    life,
    one_thread,
    place,
)

FSDP2 = ("strategy=fsdp2", "default_hooks.checkpoint.interval=2")
SHARDED = (*FSDP2, "default_hooks.checkpoint.sharded=True")
WHOLE = torch.arange(21.0).view(7, 3)


@pytest.fixture(scope="module")
def runs(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, each with its part: their checkpoints whole and in shards."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in (("whole", FSDP2), ("sharded", SHARDED)):
        codes, said = life(place, folder / name, *options, ranks=2)
        assert codes == [0, 0], said
    return folder


def put_together(path: Path) -> dict:
    state = checkpoint.load(path)
    folder = shards.folder_of(state, path)
    found = state["optimizer"]["state"]
    shards.fill(found, folder, [torch.empty(0)] * (max(found) + 1))
    return state


def same(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_shards_hold_what_a_whole_checkpoint_holds(runs: Path):
    path = runs / "sharded" / "iter_6.pth"
    checkpoint.verify(path)
    noted = checkpoint.load(path)
    notes = [s["exp_avg"] for s in noted["optimizer"]["state"].values()]
    assert sum(isinstance(note, dict) for note in notes) > 20
    ours, theirs = put_together(path), checkpoint.load(runs / "whole" / "iter_6.pth")
    same(ours["state_dict"], theirs["state_dict"])
    same(ours["optimizer"]["state"], theirs["optimizer"]["state"])


def test_each_process_writes_half(runs: Path):
    (folder,) = {path.parent for path in (runs / "sharded").glob("iter_6.*/*")}
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["rank-00000.safetensors", "rank-00001.safetensors"]
    sizes = [sum(value.numel() for value in load_file(file).values()) for file in files]
    assert 0.4 < sizes[0] / sum(sizes) < 0.6
    manifest = json.loads(checkpoint.manifest_path(runs / "sharded" / "iter_6.pth").read_text())
    assert [one["file"] for one in manifest["shards"]] == [
        f"{folder.name}/{file.name}" for file in files
    ]
    # as many folders as checkpoints are kept
    assert len(list((runs / "sharded").glob("*.shards"))) == 2


def test_a_stopped_run_goes_on_bit_for_bit_and_without_a_damaged_one(runs: Path, place, tmp_path):
    work = tmp_path / "stopped"
    codes, said = life(place, work, *SHARDED, ranks=2, STOP_AT="4")
    assert codes == [75, 75], said
    newest = checkpoint.find_valid(work)
    assert newest.name == "iter_5.pth"
    part = next(work.glob("iter_5.*.shards/rank-00001.safetensors"))
    part.write_bytes(part.read_bytes()[:-1] + b"\x01")
    assert checkpoint.find_valid(work).name == "iter_4.pth"
    codes, said = life(place, work, *SHARDED, ranks=2)
    assert codes == [0, 0], said
    ours, theirs = (put_together(at / "iter_6.pth") for at in (work, runs / "sharded"))
    for part in ("state_dict", "optimizer"):
        same(ours[part], theirs[part])


def test_killed_while_saving_it_goes_on_from_the_one_before(runs: Path, place, tmp_path):
    work = tmp_path / "killed"
    codes, said = life(place, work, *SHARDED, ranks=2, STOP_AT="1")
    assert codes == [75, 75], said
    for moment in ("after_shard", "before_manifest"):
        codes, _ = life(place, work, *SHARDED, ranks=2, SPARC_CRASH_AT=f"ckpt.{moment}")
        assert codes[0] == -9
        assert checkpoint.find_valid(work).name == "iter_2.pth"
        assert len(list(work.glob("*.shards"))) > 1  # which the next start sweeps up
    codes, said = life(place, work, *SHARDED, ranks=2)
    assert codes == [0, 0], said
    same(put_together(work / "iter_6.pth")["state_dict"], weights_of(runs))
    assert len(list(work.glob("*.shards"))) == 2


def weights_of(runs: Path) -> dict:
    return checkpoint.load(runs / "sharded" / "iter_6.pth")["state_dict"]


def test_a_best_checkpoint_of_parts_holds_whole_weights(place: Path, tmp_path: Path):
    """And the run folder of the best is one that others can read."""
    tar = place / "scenes" / "shards" / "train-000000.tar"
    held = [f"data.held_out.sources={tar}", "data.held_out.interval=3", "data.held_out.pairs=16"]
    work, best = tmp_path / "best", "default_hooks.checkpoint.save_best=loss"
    codes, said = life(place, work, *SHARDED, *held, best, ranks=2)
    assert codes == [0, 0], said
    (path,) = work.glob("best_loss_iter_*.pth")
    kept = checkpoint.weights(path)
    assert kept.keys() == checkpoint.weights(work / "iter_6.pth").keys()
    assert run_folder.verify(work / "best").config["samples_seen"] == 16 * int(path.stem[-1])


def note(shape: tuple[int, ...] = (7, 3), name: str = "optimizer/state/0/exp_avg") -> dict:
    return {0: {"exp_avg": {"shard_of": name, "shape": list(shape), "dtype": "float32"}, "step": 4}}


def written(folder: Path, *cuts: int) -> Path:
    begins = (0, *cuts)
    for number, (begin, end) in enumerate(zip(begins, (*cuts, 7), strict=True)):
        parts = {"optimizer/state/0/exp_avg": ([begin, 0], WHOLE[begin:end])}
        shards.write(folder / f"rank-{number:05d}.safetensors", parts)
    return folder


@pytest.mark.parametrize("cuts", [(), (4,), (1, 2), (2, 4, 6)])
def test_any_number_of_parts_makes_the_whole(tmp_path: Path, cuts: tuple[int, ...]):
    state = note()
    shards.fill(state, written(tmp_path / "a.shards", *cuts), [torch.empty(7, 3)])
    same(state, {0: {"exp_avg": WHOLE, "step": 4}})


@pytest.fixture
def one_of(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """This process as one of several, which are not there; once for each number of them, because
    torch keeps what it worked out for a mesh.
    """
    number, processes = request.param
    dist.init_process_group("fake", store=FakeStore(), rank=number, world_size=processes)
    yield request.param
    dist.destroy_process_group()


@pytest.mark.parametrize("one_of", [(0, 2), (1, 3), (3, 4), (6, 7), (7, 8)], indirect=True)
def test_of_parts_each_of_another_number_of_processes_takes_its_own(tmp_path: Path, one_of):
    """Three have written; of eight the last has nothing of seven rows."""
    number, processes = one_of
    mesh = init_device_mesh("cpu", (processes,))
    weight = distribute_tensor(torch.zeros(7, 3), mesh, [Shard(0)], src_data_rank=None)
    state = note()
    shards.fill(state, written(tmp_path / "a.shards", 3, 5), [weight])
    same(state[0]["exp_avg"].to_local(), WHOLE[rows(number, processes)])
    noted, parts = shards.split({"state": {0: state[0]}}, "optimizer")
    assert noted == {"state": note()}
    own = shards.own_parts(parts)
    assert len(own) == int(number < 7)
    for at, part in own.values():
        assert at == [rows(number, processes).start, 0]
        same(part, WHOLE[rows(number, processes)])


def rows(number: int, processes: int) -> slice:
    each = -(-7 // processes)
    return slice(min(7, number * each), min(7, (number + 1) * each))


def test_shards_that_are_not_all_there_are_refused(tmp_path: Path):
    folder = written(tmp_path / "a.shards", 3)
    (folder / "rank-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="not whole"):
        shards.fill(note(), folder, [torch.empty(7, 3)])
    (folder / "rank-00000.safetensors").unlink()
    parts = {"optimizer/state/0/exp_avg": ([3, 0], WHOLE[3:])}
    shards.write(folder / "rank-00001.safetensors", parts)
    with pytest.raises(ValueError, match=r"do not cover|put together"):
        shards.fill(note(), folder, [torch.empty(7, 3)])
    with pytest.raises(ValueError, match="put together"):
        shards.fill(note(), tmp_path / "none.shards", [torch.empty(7, 3)])


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 200, b"\x08\0\0\0\0\0\0\0{}", "no places", "places of others"],
    ids=["empty", "noise", "no header", "no places", "others' places"],
)
def test_files_that_are_no_shards_are_refused(tmp_path: Path, content):
    folder = tmp_path / "a.shards"
    folder.mkdir()
    file, name = folder / "rank-00000.safetensors", "optimizer/state/0/exp_avg"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        places = "{" if content == "no places" else json.dumps({"another": {}})
        save_file({name: WHOLE}, file, {"DCP_SHARDING_INFO": places})
    with pytest.raises(ValueError, match="put together"):
        shards.fill(note(), folder, [torch.empty(7, 3)])


@pytest.mark.parametrize(
    "change", [dict(shape=[7, -3]), dict(shape=None), dict(dtype="load"), dict(dtype=None)]
)
def test_notes_that_are_none_are_refused(tmp_path: Path, change: dict):
    state = note()
    state[0]["exp_avg"].update(change)
    with pytest.raises(ValueError, match="note on"):
        shards.fill(state, written(tmp_path / "a.shards"), [torch.empty(7, 3)])


@pytest.mark.parametrize("name", ["../a.shards", "/tmp/a.shards", "a", 3])
def test_a_checkpoint_names_shards_beside_it_alone(name):
    with pytest.raises(ValueError, match="not beside it"):
        shards.folder_of({"shards": name}, Path("work/iter_1.pth"))


@pytest.mark.parametrize("file", ["../a.shards/rank.safetensors", "a/b", "a.shards/../x", 3])
def test_a_manifest_lists_shards_beside_it_alone(tmp_path: Path, file):
    path = tmp_path / "iter_1.pth"
    checkpoint.save({"meta": {"iter": 1}}, path)
    entry = json.loads(checkpoint.manifest_path(path).read_text())
    checkpoint.write_manifest(path, {**entry, "shards": [dict(file=file, size=1, sha256="")]})
    with pytest.raises(checkpoint.CorruptCheckpoint, match="no files beside"):
        checkpoint.verify(path)
    checkpoint.delete(path)
    assert tmp_path.exists()


def meetings(folder: Path, ranks: int = 2, silence: float = 60.0) -> list[shards.Meeting]:
    store, found = dist.HashStore(), []
    for number in range(ranks):
        found.append(shards.Meeting(folder, number, 1, silence))
        found[-1].ranks, found[-1].store = ranks, store
    return found


def test_the_first_hears_of_all_in_their_order(tmp_path: Path):
    first, second, third = meetings(tmp_path / "a.shards", 3)
    later = threading.Timer(0.3, second.write, [{"x": ([1, 0], WHOLE[1:4])}])
    later.start()
    third.write({"x": ([4, 0], WHOLE[4:])})
    first.write({"x": ([0, 0], WHOLE[:1])})
    heard = first.hear()
    assert [one["file"] for one in heard] == [
        f"a.shards/{file.name}" for file in sorted(first.folder.iterdir())
    ]
    assert [one["size"] for one in heard] == [
        f.stat().st_size for f in sorted(first.folder.iterdir())
    ]


def test_a_rank_that_cannot_write_fails_the_save_and_nothing_stays(tmp_path: Path, monkeypatch):
    first, second = meetings(tmp_path / "a.shards")
    first.write({"x": ([0, 0], WHOLE)})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "atomic_write", full)
    with pytest.raises(OSError, match="No space"):
        second.write({"x": ([0, 0], WHOLE)})
    with pytest.raises(OSError, match=r"rank 1.*No space") as caught:
        first.hear()
    assert caught.value.errno == errno.ENOSPC
    assert not first.folder.exists()


def test_shards_of_no_manifest_are_swept_up_and_no_others(tmp_path: Path):
    for name in ("iter_1.a", "iter_1.b", "iter_2.c"):
        written(tmp_path / f"{name}.shards")
    said = [dict(file="iter_1.a.shards/rank-00000.safetensors", size=1, sha256="x")]
    checkpoint.save({"meta": {"iter": 1}}, tmp_path / "iter_1.pth", lambda: said)
    checkpoint.set_aside(tmp_path / "iter_1.pth")
    checkpoint.sweep_shards(tmp_path)
    assert [path.name for path in tmp_path.glob("*.shards")] == ["iter_1.a.shards"]


def test_a_rank_that_tells_nothing_is_given_up(tmp_path: Path):
    first, _ = meetings(tmp_path / "a.shards", silence=0.1)
    first.write({"x": ([0, 0], WHOLE)})
    with pytest.raises(OSError, match="rank 1 has written no shard"):
        first.hear()
