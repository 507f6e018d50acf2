"""Run folders: round trip, verification, and what damage or a stranger's folder looks like."""

import errno
import json
import os
import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import save_file

from sparc_pretrain import run_folder
from sparc_pretrain.atomic_file import atomic_folder
from sparc_pretrain.convert.half import halve
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from tests import kills
from tests.models import encoder

VISION = dict(arch="x", img_size=32, width=8, patch=8)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["a small red star", "a large blue house on grass"] * 5, 300)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    made = encoder(tokenizer)
    made.objective_config = dict(type="Sparc")
    return made.eval()


def test_a_model_is_the_same_after_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path / "run", dict(samples_seen=7))
    again = DualEncoder.from_pretrained(tmp_path / "run")
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again.encode_image(image), model.encode_image(image))
    ids = torch.randint(1, 40, (2, 5))
    assert torch.equal(again.encode_text(ids), model.encode_text(ids))
    assert again.objective_config == dict(type="Sparc")
    config = run_folder.open_run(tmp_path / "run").config
    assert config["samples_seen"] == 7 and config["vision"]["patch"] == 8


def test_a_tokenizer_with_more_ids_than_the_text_tower_has_vectors_is_refused(model, tmp_path):
    place, words = tmp_path / "run", json.loads(model.tokenizer.to_json())
    model.save_pretrained(place)
    rows = model.text.vocab_size
    for change in (
        lambda words: words["model"]["vocab"].update(star=rows),
        lambda words: words["added_tokens"].append({"id": rows, "content": "<star>"}),
    ):
        other = json.loads(json.dumps(words))
        change(other)
        with pytest.raises(ValueError, match=f"has the id {rows}, the text tower of {rows} words"):
            run_folder.write(place, model.config(), model.state_dict(), json.dumps(other))
        assert run_folder.verify(place)  # the good one is still there
        shutil.copytree(place, tmp_path / "other", dirs_exist_ok=True)
        (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(other))
        for read in (run_folder.open_run, run_folder.verify, DualEncoder.from_pretrained):
            with pytest.raises(run_folder.InvalidRunFolder, match=rf"tokenizer\.json.*id {rows}"):
                read(tmp_path / "other")


def test_publishing_swaps_a_symlink_and_keeps_only_the_newest(model, tmp_path):
    state = model.state_dict()
    for step in (10, 20):
        run = run_folder.publish(tmp_path, step, model.config(), state, None)
    assert (tmp_path / "run").is_symlink() and (tmp_path / "run").resolve() == run.path
    assert [p.name for p in tmp_path.glob("run-*")] == ["run-20"]
    assert run_folder.open_run(tmp_path).sha256 == run_folder.verify(tmp_path / "run").sha256


def test_publishing_leaves_other_peoples_folders_and_replaces_a_copied_one(model, tmp_path):
    state = model.state_dict()
    run_folder.publish(tmp_path / "a", 10, model.config(), state, None)
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # follows links: `run` is a folder now
    for name in ("run-best", "run-notes"):
        (tmp_path / "b" / name).mkdir()
    run = run_folder.publish(tmp_path / "b", 20, model.config(), state, None)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "run", "run-20", "run-best", "run-notes",
    ]  # fmt: skip
    assert (tmp_path / "b/run").is_symlink() and (tmp_path / "b/run").resolve() == run.path


@pytest.mark.parametrize("steps", [(10, 20), (10, 10)], ids=str)
def test_a_kill_at_any_moment_of_publishing_leaves_a_whole_folder_under_run(tmp_path, steps):
    config = {"vision": VISION, "objective": None, "text": None, "width": 16}
    config |= {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic"}

    def publish(folder, step, value):
        weights = {"adapters.x": torch.full((2,), float(value))}
        return run_folder.publish(folder, step, config, weights, None)

    for value, step in enumerate(steps[:-1]):
        publish(tmp_path / "start", step, value)
    last = len(steps) - 1
    for change in range(1, 100):
        work = tmp_path / str(change)
        shutil.copytree(tmp_path / "start", work, symlinks=True)

        def doomed(work=work, change=change):
            kills.die_before_change(change)
            publish(work, steps[-1], last)

        died = kills.in_a_fork(doomed)
        value = run_folder.verify(work / "run").weights()["adapters.x"][0]
        assert value in ((last,) if died == 0 else (last - 1, last)), change
        run = publish(work, steps[-1], last)  # the resumed run comes by again
        assert run_folder.verify(work / "run").sha256 == run.sha256
        assert len(list(work.iterdir())) == 2  # the folder and its link: nothing is left behind
        if died == 0:
            break
        assert died == -signal.SIGKILL
    assert 15 < change < 60


def test_a_folder_killed_between_its_two_renames_comes_back_with_the_next_write(tmp_path):
    def write(text):
        with atomic_folder(tmp_path / "out") as draft:
            (draft / "file").write_text(text)

    write("old")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise RuntimeError("the disk is full")
    assert (tmp_path / "out" / "file").read_text() == "old"
    write("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_all_files_of_a_run_folder_have_the_mode_that_the_umask_asks_for(tmp_path, model, mask):
    before = os.umask(mask)
    try:
        run = run_folder.publish(tmp_path, 1, model.config(), model.state_dict(), "{}")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in run.path.iterdir()} == {0o666 & ~mask}
    assert run.path.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_full_disk_is_an_os_error_and_leaves_no_draft_and_drafts_of_the_killed_go(
    model, tmp_path
):
    (tmp_path / ".run-3.writing").mkdir()
    state = model.state_dict()
    run_folder.publish(tmp_path, 5, model.config(), state, None)
    before = {path.name for path in tmp_path.iterdir()}
    assert not any(name.endswith(".writing") for name in before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*model\.safetensors") as caught:
            run_folder.publish(tmp_path, 6, model.config(), state, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert {path.name for path in tmp_path.iterdir()} == before


def test_the_identity_changes_with_the_weights(model, tmp_path):
    first = model.save_pretrained(tmp_path / "a")
    second = model.save_pretrained(tmp_path / "b")
    model.adapters.g_v.bias.data += 1
    third = model.save_pretrained(tmp_path / "c")
    assert first.sha256 == second.sha256 != third.sha256


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_byte_is_found(model, tmp_path, name):
    model.save_pretrained(tmp_path / "run")
    run_folder.verify(tmp_path / "run")
    path = tmp_path / "run" / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(run_folder.InvalidRunFolder, match=name):
        run_folder.verify(tmp_path / "run")


def test_a_file_that_the_manifest_does_not_list_is_found(model, tmp_path):
    model.save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["model.safetensors"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(run_folder.InvalidRunFolder, match=r"safetensors is not in the manifest"):
        run_folder.verify(tmp_path / "run")


@pytest.mark.parametrize("content",
    ["[]", "{}", "{", '{"format": 1, "files": ["a"]}', '{"format": 1, "files": {"a": {}}}',
     '{"format": 2, "files": {}}'],
)  # fmt: skip
def test_a_manifest_of_another_kind_is_named(model, tmp_path, content):
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text(content)
    with pytest.raises(run_folder.InvalidRunFolder, match=r"manifest\.json"):
        run_folder.verify(tmp_path / "run")


@pytest.mark.parametrize("content", ["[]", "5", "{", '{"vision": null}'])
def test_a_config_of_another_kind_is_named(model, tmp_path, content):
    model.save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    if "vision" in content:
        content = json.dumps({**json.loads(path.read_text()), "vision": None})
    path.write_text(content)
    with pytest.raises(run_folder.InvalidRunFolder, match=r"config\.json"):
        run_folder.open_run(tmp_path / "run")


def test_weights_that_are_cut_off_are_named(model, tmp_path):
    model.save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(run_folder.InvalidRunFolder, match=r"safetensors cannot be read"):
        DualEncoder.from_pretrained(tmp_path / "run")


def test_a_half_written_folder_does_not_count(model, tmp_path):
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(run_folder.InvalidRunFolder, match=r"manifest\.json is missing"):
        run_folder.open_run(tmp_path / "run")


def test_a_missing_folder_another_folder_and_another_format_are_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_folder.open_run(tmp_path / "nowhere")
    with pytest.raises(run_folder.InvalidRunFolder):
        run_folder.open_run(tmp_path)
    model.save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(run_folder.InvalidRunFolder, match="format 99"):
        run_folder.open_run(tmp_path / "run")


def test_weights_that_do_not_fit_the_config_are_refused(model, tmp_path):
    config = {**model.config(), "width": 8}
    run_folder.write(tmp_path / "run", config, model.state_dict(), None)
    with pytest.raises(run_folder.InvalidRunFolder, match="do not fit"):
        DualEncoder.from_pretrained(tmp_path / "run")


def test_encoders_agree_with_the_forward_pass(model, tokenizer):
    image = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    ids = torch.randint(1, 40, (3, 6))
    mask = torch.ones(3, 6, dtype=torch.bool)
    features = model(image, ids, mask, torch.zeros_like(mask))
    torch.testing.assert_close(model.encode_image(image), features.image)
    torch.testing.assert_close(model.encode_patches(image), features.patches)
    torch.testing.assert_close(model.encode_text(ids, mask), features.text)
    unit = model.encode_patches(image, head="global", normalize=True)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3, 16))
    with pytest.raises(ValueError, match="head"):
        model.encode_patches(image, head="middle")


def test_the_global_path_goes_through_h_v_and_the_local_one_does_not(model):
    image = torch.randn(1, 3, 32, 32)
    states = model.vision(image)
    wanted = model.adapters.g_v(model.adapters.h_v(states.mean(1)))
    torch.testing.assert_close(model.encode_image(image), wanted)
    torch.testing.assert_close(model.encode_patches(image), model.adapters.g_v(states))


def test_pixels_are_normalised_with_the_runs_statistics(model):
    pixels = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    wanted = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(model.normalize(pixels)[0, :, 0, 0], wanted)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ""])
def test_a_manifest_that_names_files_of_elsewhere_is_refused(model, tmp_path, name):
    run = model.save_pretrained(tmp_path / "run").path
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(run_folder.InvalidRunFolder, match="no file of the folder"):
        run_folder.verify(run)


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(model, tmp_path, name):
    run = model.save_pretrained(tmp_path / "run").path
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(run_folder.InvalidRunFolder, match="is missing"):
        DualEncoder.from_pretrained(run)


@pytest.mark.parametrize("what", ["nan", "inf", "int"])
def test_weights_that_compute_nothing_are_refused(model, tmp_path, what):
    weights = dict(model.state_dict())
    strange = torch.tensor(float(what)) if what != "int" else torch.tensor(1.0)
    weights["adapters.g_v.bias"] = torch.full((16,), 0.0) + strange
    run = run_folder.write(tmp_path / "run", model.config(), weights, None).path
    if what == "int":
        weights["adapters.g_v.bias"] = torch.ones(16, dtype=torch.int32)
        save_file({k: v.contiguous() for k, v in weights.items()}, run / "model.safetensors")
    with pytest.raises(
        run_folder.InvalidRunFolder, match=r"g_v\.bias holds NaN, infinity or other"
    ):
        DualEncoder.from_pretrained(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", [0, 0, float("nan")]), ("std", [1, 1, 0]), ("mean", 1), ("std", [1, 1]),
     ("width", 0), ("width", 2**40), ("text", [1]), ("objective", 3), ("interpolation", None),
     ("interpolation", "bicubicc"),
     ("samples_seen", {"a": 1}), ("global_head", 1)],
)  # fmt: skip
def test_a_config_that_says_nothing_sound_is_refused_by_key(model, tmp_path, key, value):
    run = model.save_pretrained(tmp_path / "run")
    (run.path / "config.json").write_text(json.dumps({**run.config, key: value}))
    with pytest.raises(run_folder.InvalidRunFolder, match=rf"config\.json: .*{key}"):
        run_folder.open_run(run.path)


@pytest.mark.parametrize(
    ("section", "change"),
    [("vision", {"overrides": {"depth": 10**6}}), ("vision", {"img_size": 2**20}),
     ("vision", {"overrides": {"embed_dim": 2**20, "num_heads": 1}}), ("text", {"layers": 10**6}),
     ("text", {"vocab_size": 2**20, "width": 2**20}), ("text", {"max_tokens": 2**20}),
     ("vision", {"arch": "vit_giant_patch14_224"}), ("text", {"act": "no_such"}),
     ("text", {"heads": 0}), ("text", {"pool": 3}), ("vision", {"arch": None})],
)  # fmt: skip
def test_sizes_are_compared_with_the_weights_before_they_are_built(
    model, tmp_path, section, change
):
    config = model.config()
    if "overrides" in change:
        change = {"overrides": {**config["vision"]["overrides"], **change["overrides"]}}
    config[section] = {**config[section], **change}
    run = run_folder.write(tmp_path / "run", config, model.state_dict(), None)
    with pytest.raises(run_folder.InvalidRunFolder, match=str(run.path)):
        DualEncoder.from_pretrained(run.path)


def test_a_folder_in_half_the_size_is_read_in_float32(model, tmp_path):
    model.save_pretrained(tmp_path / "run", dict(samples_seen=7))
    small = halve(tmp_path / "run", tmp_path / "small")
    whole = run_folder.open_run(tmp_path / "run")
    sizes = [(r.path / run_folder.WEIGHTS).stat().st_size for r in (small, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    assert small.config == whole.config and run_folder.verify(tmp_path / "small").path == small.path
    for name, tensor in small.weights().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, whole.weights()[name], rtol=1e-3, atol=1e-6)
    again = DualEncoder.from_pretrained(tmp_path / "small")
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(
        again.encode_image(image), model.encode_image(image), rtol=0.05, atol=0.02
    )
    with torch.no_grad():
        model.adapters.g_v.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path / "large", dict(samples_seen=7))
    with pytest.raises(ValueError, match=r"adapters.g_v.weight is too large for float16"):
        halve(tmp_path / "large", tmp_path / "none")
