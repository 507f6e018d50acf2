"""A work dir's copy in a bucket: whole at every moment, through faults of every kind."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sparc_pretrain import remote_run, run_folder
from sparc_pretrain.data import bucket, remote
from sparc_pretrain.data.remote import Lost, RemoteError
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.engine import checkpoint, remote_resume
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.engine.remote_sync import RemoteSync, RemoteSyncHook
from tests.bucket_server import buckets
from tests.models import encoder
from tests.remote_client import alone, at_gs, at_s3

TOKENIZER = Tokenizer.train(["a small red star", "a large blue house on grass"] * 5, 300)
AT = "s3://runs/mine/sparc"


@pytest.fixture(autouse=True)
def own_client(tmp_path_factory, monkeypatch):
    alone(monkeypatch, tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(remote, "BACKOFF", remote.BACKOFF / 200)
    monkeypatch.setattr(bucket, "PART", 40_000)  # several parts


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "buckets" / "runs").mkdir(parents=True)
    with buckets(tmp_path / "buckets") as server:
        at_s3(server, monkeypatch)
        yield server


@pytest.fixture
def work(tmp_path) -> Path:
    """A work dir after its first save."""
    work = tmp_path / "work"
    logs = work / "20260101_000000" / "vis_data"
    logs.mkdir(parents=True)
    (logs / "scalars.json").write_text('{"loss": 1}\n')
    TOKENIZER.save(work)
    save(work, 1)
    return work


def save(work: Path, step: int, keep: int = 2, seed: int | None = None) -> None:
    """What a save leaves behind."""
    generator = torch.Generator().manual_seed(step if seed is None else seed)
    weights = torch.randn(20_000, generator=generator)
    torch.manual_seed(int(weights.sum() * 1000))
    model = encoder(TOKENIZER)
    config = {**model.config(), "objective": dict(type="Sparc"), "samples_seen": step}
    run_folder.publish(work, step, config, model.state_dict(), TOKENIZER.to_json())
    path = work / f"iter_{step}.pth"
    checkpoint.save({"meta": {"iter": step}, "w": weights}, path)
    checkpoint.commit(path, work, keep)


def sync(work: Path, keep: int = 2, at: str = AT) -> RemoteSync:
    return RemoteSync(work, bucket.folder(at), keep)


def there(server) -> Path:
    return server.folder / "runs" / "mine" / "sparc"


def resumed(folder: Path, at: str = AT) -> Path:
    """What another machine goes on from."""
    folder.mkdir()
    return Path(remote_resume.prepare(folder, None, at))


@pytest.mark.parametrize(("scheme", "sign_in"), [("s3", at_s3), ("gs", at_gs)])
def test_all_that_a_resume_and_a_reader_need_arrives_byte_for_byte(
    work, tmp_path, server, monkeypatch, scheme, sign_in
):
    sign_in(server, monkeypatch)
    at = AT.replace("s3", scheme)
    name = remote_run.name_there(run_folder.open_run(work).path, run_folder.open_run(work).sha256)
    assert sync(work, at=at).send() == ["iter_1.pth", name]
    found = resumed(tmp_path / "other", at)
    checkpoint.verify(found)
    for file in (found.name, f"{found.name}.manifest.json", "tokenizer.json"):
        assert (found.parent / file).read_bytes() == (work / file).read_bytes()
    run = run_folder.verify(run_folder.open_run(at).path)
    assert run.sha256 == run_folder.open_run(work).sha256
    log = "20260101_000000/vis_data/scalars.json"
    assert (there(server) / log).read_bytes() == (work / log).read_bytes()


def test_what_is_there_is_not_sent_again_by_this_process_or_the_next(work, server):
    mine = sync(work)
    mine.send()
    before = list(server.written)
    assert mine.send() == [] and server.written == before
    (work / "20260101_000000" / "vis_data" / "scalars.json").write_text('{"loss": 1}\n{}\n')
    assert mine.send() == [] and len(server.written) == len(before) + 1
    del server.written[:]
    assert sync(work).send() == []
    assert not any("pth" in path or "safetensors" in path for _, path in server.written)


def test_the_marker_comes_last_and_old_ones_go_after_it(work, server):
    mine = sync(work, keep=1)
    mine.send()
    save(work, 2, keep=1)
    del server.written[:]
    mine.send()
    order = [path.rpartition("/")[2] for how, path in server.written]
    places = [order.index(name) for name in ("iter_2.pth", "iter_2.pth.manifest.json")]
    marker, pointer = order.index("last_checkpoint"), order.index("run.current")
    assert max(places) < marker and order[-1] != "last_checkpoint"
    assert places[0] < places[1]
    assert order.index("model.safetensors") < order.index("manifest.json") < pointer
    assert {p.name for p in there(server).glob("*.pth*")} == {
        "iter_2.pth", "iter_2.pth.manifest.json"
    }  # fmt: skip


@pytest.mark.parametrize("again", [False, True])
def test_a_death_at_any_moment_leaves_a_whole_checkpoint_and_a_whole_run(
    work, tmp_path, server, monkeypatch, again
):
    """Also when the same step is saved again, under the same names."""
    monkeypatch.setattr(remote, "TRIES", 1)
    sync(work, keep=1).send()
    before, first = tmp_path / "before", checkpoint.sha256(work / "iter_1.pth")
    shutil.copytree(server.folder, before)
    save(work, 1 if again else 2, keep=1, seed=9)
    second = checkpoint.sha256(work / f"iter_{1 if again else 2}.pth")
    shas, found = [first], []
    for changes in range(100):
        shutil.rmtree(server.folder / "runs")
        shutil.copytree(before / "runs", server.folder / "runs")
        server.written, server.most_changes = [], changes
        try:
            sync(work, keep=1).send()
        except RemoteError:
            server.most_changes = None
        reader = resumed(tmp_path / f"reader{changes}")
        checkpoint.verify(reader)
        shas.append(checkpoint.sha256(reader))
        found.append(run_folder.verify(run_folder.open_run(AT).path).sha256)
        if server.most_changes is not None:
            break
    assert 15 < changes < 99 and shas == sorted(shas, key=[first, second].index)
    assert shas[-1] == second and len(set(found)) == 2
    assert found[-1] == run_folder.open_run(work).sha256


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "cut"])
def test_what_passes_is_tried_again(work, tmp_path, server, fault):
    server.faults = [None, fault, None, None, fault, fault, None] * 6
    sync(work).send()
    assert len(server.faults) < 35
    server.faults = [fault, None, fault]
    checkpoint.verify(resumed(tmp_path / "other"))
    assert run_folder.verify(run_folder.open_run(AT).path)


def test_a_bucket_that_is_denied_is_told_once_and_the_next_save_sends_all(
    work, tmp_path, server, monkeypatch
):
    said = []
    monkeypatch.setattr("sparc_pretrain.engine.remote_sync.print_log", lambda *a: said.append(a))
    mine = sync(work)
    server.always = 403
    mine.ask()
    mine._thread.wait()
    (line, _, level), *more = said
    assert not more and level == logging.WARNING and "access is denied" in line and AT in line
    assert "secret" not in line and "\n" not in line
    server.always = None
    save(work, 2)
    assert mine.finish() is None
    assert said[1][0].startswith(f"sent to {AT}") and "iter_2.pth" in said[1][0]
    assert resumed(tmp_path / "other").name == "iter_2.pth"
    assert {path.name for path in there(server).glob("*.pth")} == {"iter_1.pth", "iter_2.pth"}


def test_at_the_end_it_is_tried_once_more_and_then_said_to_be_missing(work, server, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 1)
    monkeypatch.setattr(bucket, "AGAIN", 0)
    mine = sync(work)
    server.faults = [503]
    assert mine.finish() is None
    mine = sync(work)
    server.always = 503
    assert isinstance(mine.finish(), Lost)
    hook = RemoteSyncHook(AT)
    hook.sync = mine
    with pytest.raises(OSError, match=r"whole in .*but not in s3://.*503.*--resume auto sends"):
        hook.after_run(type("Runner", (), dict(work_dir=str(work))))


def test_a_checkpoint_that_is_deleted_while_it_is_sent_arrives_whole(
    work, tmp_path, server, monkeypatch
):
    write = bucket.write

    def deleting(place, data):
        if place.name == "iter_1.pth":
            checkpoint.delete(work / "iter_1.pth")
        write(place, data)

    monkeypatch.setattr(bucket, "write", deleting)
    sync(work).send()
    checkpoint.verify(resumed(tmp_path / "other"))


def test_as_many_stay_as_on_disk_and_those_of_others_too(work, server):
    mine = sync(work)
    place = there(server)
    place.mkdir(parents=True)
    (place / "run-mine").mkdir()
    for name in ("epoch_1.pth", "iter_9.pth", "mine.pth", "run-mine/file"):
        (place / name).write_text("not ours")
    for step in range(2, 6):
        save(work, step)
        mine.send()
    assert sorted(path.name for path in place.glob("*.pth")) == [
        "epoch_1.pth", "iter_4.pth", "iter_5.pth", "iter_9.pth", "mine.pth"
    ]  # fmt: skip
    runs = [path.name for path in place.glob("run-*") if path.is_dir() and any(path.iterdir())]
    assert sorted(name[:6] for name in runs) == ["run-4-", "run-5-", "run-mi"]


def test_all_are_kept_and_those_missed_follow_when_all_are_kept(work, server):
    for step in (2, 3):
        save(work, step, keep=-1)
    assert sync(work, keep=-1).send()[:3] == ["iter_3.pth", "iter_1.pth", "iter_2.pth"]


def test_auto_takes_the_newer_of_disk_and_bucket(work, tmp_path, server):
    other = tmp_path / "other"
    other.mkdir()
    assert remote_resume.prepare(other, AT, "auto") == "auto"  # the first start
    assert not checkpoint.numbered(other)
    sync(work).send()
    remote_resume.prepare(other, AT, "auto")
    assert checkpoint.find_valid(other).name == "iter_1.pth"
    save(other, 7)
    server.asked.clear()
    remote_resume.prepare(other, AT, "auto")
    assert not any(path.endswith(".pth") for path, _ in server.asked)
    save(work, 9)
    sync(work).send()
    remote_resume.prepare(other, AT, "auto")
    assert checkpoint.find_valid(other).name == "iter_9.pth"


def test_a_named_checkpoint_in_a_bucket_is_fetched(work, tmp_path, server):
    save(work, 2)
    sync(work).send()
    assert resumed(tmp_path / "one", f"{AT}/iter_1.pth").name == "iter_1.pth"
    with pytest.raises(FileNotFoundError, match="never sent whole"):
        resumed(tmp_path / "two", f"{AT}/iter_5.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint is here"):
        resumed(tmp_path / "three", "s3://runs/elsewhere")


def test_a_new_training_does_not_take_the_place_of_another_unless_forced(work, tmp_path, server):
    sync(work).send()
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with pytest.raises(FileExistsError, match=r"newest iter_1\.pth: go on with it \(--resume\)"):
        remote_resume.prepare(fresh, AT, None)
    remote_resume.prepare(fresh, AT, None, force=True)
    remote_resume.prepare(fresh, AT, "auto")
    assert not checkpoint.numbered(fresh)


def test_shards_are_not_sent_and_that_is_said(work):
    runner = SimpleNamespace(hooks=[CheckpointHook(by_epoch=False, sharded=True)], work_dir=work)
    with pytest.raises(ValueError, match=r"leave default_hooks\.checkpoint\.sharded out"):
        RemoteSyncHook(AT).before_train(runner)


def test_a_bucket_that_cannot_be_used_is_told_at_the_door(work, server, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 1)
    monkeypatch.setattr(bucket, "AGAIN", 0)
    for resume in ("auto", None):
        server.always = 403
        with pytest.raises(RemoteError, match="access is denied"):
            remote_resume.prepare(work, AT, resume)
        server.always = None
        with pytest.raises(RemoteError, match="there is no such bucket"):
            remote_resume.prepare(work, "s3://none/x", resume)
    for name in ("https://host/x", "s3://bucket", "work_dirs/x", "s3://me:hunter2@bucket/x"):
        with pytest.raises(ValueError, match=r"folder of a bucket|no user or pass") as told:
            remote_resume.prepare(work, name, "auto")
        assert "hunter2" not in str(told.value)


def test_a_copy_that_may_not_be_listed_is_not_taken_for_none(work, tmp_path, server):
    sync(work).send()
    server.faults = [403]
    with pytest.raises(RemoteError, match="access is denied"):
        remote_resume.prepare(tmp_path, AT, "auto")


def test_a_damaged_or_forged_copy_is_refused_and_nothing_is_left(work, tmp_path, server):
    sync(work).send()
    file = there(server) / "iter_1.pth"
    whole = file.read_bytes()
    for number, data in enumerate((whole[:-1] + b"x", whole[:-1])):
        file.write_bytes(data)
        with pytest.raises(bucket.Changed, match="not what its manifest says"):
            resumed(tmp_path / f"other{number}")
        assert not list((tmp_path / f"other{number}").glob("iter*"))
    (there(server) / "last_checkpoint").write_text("../../elsewhere/iter_1.pth")
    with pytest.raises(FileNotFoundError):
        resumed(tmp_path / "climbs")
    for manifest in ("[1]", '{"size": [1], "sha256": {}}', "{" * 5000):
        (there(server) / "last_checkpoint").write_text("iter_1.pth")
        (there(server) / "iter_1.pth.manifest.json").write_text(manifest)
        with pytest.raises(OSError):
            resumed(tmp_path / f"forged{len(manifest)}")


def test_a_run_folder_is_read_by_every_name_and_kept(work, server):
    shutil.copytree((work / "run").resolve(), work / "best")
    sync(work).send()
    sha256 = run_folder.open_run(work).sha256
    (folder,) = there(server).glob("run-1-*")
    for name in ("", "/", "/run", "/best", f"/{folder.name}"):
        server.asked.clear()
        found = run_folder.open_run(AT + name)
        assert found.sha256 == sha256 and found.path.is_dir()
    assert not any("safetensors" in path for path, _ in server.asked)  # kept under its identity
    web = f"{server.address}/runs/mine/sparc"
    assert run_folder.open_run(web).path.parent.name == "sparc"
    with pytest.raises(FileNotFoundError, match="no run folder is here"):
        run_folder.open_run("s3://runs/mine")


def test_a_run_folder_that_is_replaced_while_it_is_read_is_read_anew(work, server, monkeypatch):
    mine = sync(work)
    mine.send()
    fetch = bucket.fetch

    def late(place, *more):
        monkeypatch.setattr(bucket, "fetch", fetch)
        for step in (2, 3):
            save(work, step)
            mine.send()
        fetch(place, *more)

    monkeypatch.setattr(bucket, "fetch", late)
    assert run_folder.open_run(AT).config["samples_seen"] == 3


@pytest.mark.parametrize("replaced", ["while it is sent", "before", "while it is opened"])
def test_a_best_run_folder_that_is_replaced_while_it_is_sent_is_whole_in_the_bucket(
    work, server, monkeypatch, replaced
):
    """Whenever the next one takes its place, which two renames do under one name."""
    best = work / "best"
    shutil.copytree((work / "run").resolve(), best)
    save(work, 2)

    def replace(*paths) -> None:
        nonlocal best
        if best is not None and best in Path(paths[0]).parents:
            shutil.rmtree(best)
            shutil.copytree((work / "run").resolve(), best)
            best = None

    write, begin = bucket.write, open

    def written(place, data):
        found = write(place, data)
        if "best-" in str(place) and place.name == "config.json":
            replace(work / "best" / "config.json")
        return found

    def opened(path, *more, **named):
        if Path(path).name == "model.safetensors":
            replace(path)
        return begin(path, *more, **named)

    if replaced == "while it is sent":
        monkeypatch.setattr(bucket, "write", written)
    elif replaced == "while it is opened":
        monkeypatch.setattr(remote_run, "open", opened, raising=False)
    else:
        send = remote_run.send
        monkeypatch.setattr(remote_run, "send", lambda *a: (replace(a[0] / "x"), send(*a))[1])
    mine = sync(work)
    mine.send()
    first = run_folder.verify(run_folder.open_run(f"{AT}/best").path)
    assert first.config["samples_seen"] == (1 if replaced == "while it is sent" else 2)
    mine.send()
    found = run_folder.verify(run_folder.open_run(f"{AT}/best").path)
    assert found.sha256 == run_folder.open_run(work).sha256
    for manifest in there(server).glob("best-*/manifest.json"):
        sha256 = run_folder.verify(manifest.parent).sha256
        assert manifest.parent.name == remote_run.name_there(work / "best", sha256)


def test_a_manifest_that_names_files_of_elsewhere_is_refused(work, server):
    sync(work).send()
    (folder,) = there(server).glob("run-1-*")
    manifest = folder / "manifest.json"
    good = json.loads(manifest.read_text())
    for files in ({"../x": good["files"]["config.json"]}, {"config.json": 3}, [1]):
        manifest.write_text(json.dumps(dict(good, files=files)))
        with pytest.raises(RemoteError, match="no manifest of a run folder"):
            run_folder.open_run(AT)
    (there(server) / "run.current").write_text("../../other")
    with pytest.raises(FileNotFoundError, match="no run folder is here"):
        run_folder.open_run(AT)
