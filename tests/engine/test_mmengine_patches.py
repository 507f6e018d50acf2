"""mmengine executes nothing it finds in a file, and installs nothing."""

import os
import sys
from pathlib import Path

import mmengine
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.command import launcher
from sparc_pretrain.engine import checkpoint, mmengine_patches


@pytest.fixture(autouse=True)
def patched():
    mmengine_patches.install()


@pytest.fixture
def canary(tmp_path):
    """A path that must not come into being, and a pickle and a config text that would make it."""

    class Canary:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'canary'}",)

    yield Canary(), f"open({str(tmp_path / 'canary')!r}, 'w').close()"
    assert not (tmp_path / "canary").exists()


def test_the_patches_are_installed_once():
    from mmengine.runner import Runner

    before = (Runner.wrap_model, Runner.resume, mmengine.runner.save_checkpoint)
    mmengine_patches.install()
    assert before == (Runner.wrap_model, Runner.resume, mmengine.runner.save_checkpoint)


def test_no_entry_point_unpickles_code(tmp_path, canary):
    from mmengine.runner import load_checkpoint
    from mmengine.runner.checkpoint import _load_checkpoint_with_prefix

    path = tmp_path / "iter_5.pth"
    torch.save({"meta": {"iter": 5}, "state_dict": {"w": torch.ones(1)}, "evil": canary[0]}, path)
    model = torch.nn.Linear(1, 1)
    for read in (
        lambda: checkpoint.load(path),
        lambda: load_checkpoint(model, str(path)),
        lambda: _load_checkpoint_with_prefix("w", str(path)),
        lambda: mmengine_patches.resolve_resume(tmp_path, path),
        lambda: toy_run.make_runner(tmp_path, resume=path).train(),
        lambda: toy_run.make_runner(tmp_path, load_from=path).train(),
        lambda: toy_run.make_runner(tmp_path).resume(str(path)),
    ):
        with pytest.raises(checkpoint.UnsafeCheckpoint, match=r"iter_5\.pth needs"):
            read()


def test_config_text_in_a_checkpoint_is_not_executed(tmp_path, canary):
    toy_run.train(tmp_path, steps=5)
    path = tmp_path / "evil.pth"
    state = checkpoint.load(tmp_path / "iter_5.pth")
    state["meta"].update(config=canary[1], cfg=canary[1])
    state["message_hub"]["runtime_info"]["cfg"] = canary[1]
    state["message_hub"]["resumed_keys"]["cfg"] = True
    torch.save(state, path)
    runner = toy_run.train(tmp_path, steps=6, resume=path)
    assert runner.iter == 6
    loaded = mmengine.runner.checkpoint._load_checkpoint(str(path))
    assert "cfg" not in loaded["meta"] and "cfg" not in loaded["message_hub"]["runtime_info"]


def test_a_python_tag_in_a_yaml_config_is_refused(tmp_path, canary):
    import yaml

    config = tmp_path / "config.yaml"
    config.write_text(f"x: !!python/object/apply:os.system ['touch {tmp_path / 'canary'}']\n")
    with pytest.raises(yaml.constructor.ConstructorError, match="python/object"):
        mmengine.Config.fromfile(config)
    with pytest.raises(yaml.constructor.ConstructorError):
        mmengine.load(config)
    config.write_text("x: [1, 2]\n")
    assert mmengine.Config.fromfile(config).x == [1, 2]


def test_nothing_is_installed_at_run_time():
    from mmengine.hub import get_config, get_model
    from mmengine.utils import install_package

    with pytest.raises(ImportError, match="somepackage"):
        install_package("somepackage")
    for function in (get_config, get_model):
        with pytest.raises(ImportError, match="would install"):
            function("mmseg::unet/any.py")


def test_downloaded_weights_are_plain_data_too(tmp_path, canary):
    from mmengine.runner.checkpoint import load_from_http

    torch.save({"w": torch.ones(2)}, tmp_path / "good.pth")
    torch.save({"w": canary[0]}, tmp_path / "evil.pth")
    url = tmp_path.as_uri() + "/{}.pth"  # file:///..., so that no network is needed
    cache = tmp_path / "cache"
    assert torch.equal(load_from_http(url.format("good"), "cpu", cache)["w"], torch.ones(2))
    with pytest.raises(checkpoint.UnsafeCheckpoint):
        load_from_http(url.format("evil"), "cpu", cache)


def test_mmengines_own_resume_finds_the_newest_valid_checkpoint(tmp_path):
    from mmengine.runner import find_latest_checkpoint

    assert find_latest_checkpoint(str(tmp_path)) is None
    for iteration in (5, 10):
        state = {"meta": {"iter": iteration}}
        mmengine.runner.save_checkpoint(state, str(tmp_path / f"iter_{iteration}.pth"))
    (tmp_path / "last_checkpoint").write_text("")
    (tmp_path / "iter_10.pth").write_bytes(b"damaged")
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / "iter_5.pth")


@pytest.mark.parametrize(
    ("name", "variables", "host"),
    [
        ("slurm", {"SLURM_NODELIST": "node7"}, "node7"),
        ("slurm", {"SLURM_NODELIST": "node[7-9]", "MASTER_ADDR": "node9"}, "node9"),
        ("mpi", {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "127.0.0.1"),
    ],
)
def test_the_first_host_is_found_where_the_launcher_tells_it(monkeypatch, name, variables, host):
    launched(monkeypatch, name, variables)
    launcher._export_ranks(name)
    found = [os.environ[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")]
    assert found == ["1", "2", "0", host]


@pytest.mark.parametrize(
    ("name", "variables"),
    [("slurm", {"SLURM_NODELIST": "node[7-9]"}), ("mpi", {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})],
)
def test_a_first_host_that_nobody_tells_is_asked_for(monkeypatch, name, variables):
    launched(monkeypatch, name, variables)
    with pytest.raises(ValueError, match="set MASTER_ADDR"):
        launcher._export_ranks(name)


def test_the_first_host_of_many_is_asked_of_scontrol(monkeypatch, tmp_path):
    launched(monkeypatch, "slurm", {"SLURM_NODELIST": "node[7-9]", "PATH": str(tmp_path)})
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $1 $2 > asked\necho node7\necho node8\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    launcher._export_ranks("slurm")
    assert os.environ["MASTER_ADDR"] == "node7"
    assert (tmp_path / "asked").read_text() == "show hostnames\n"


def launched(monkeypatch, name, variables):
    """The environment of the second process of two, with nothing left of another launcher."""
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(key, "")  # so that what is set here is taken away again
        monkeypatch.delenv(key)
    monkeypatch.setenv("PATH", "")
    ranks = {
        "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
        "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    }[name]
    for key, value in {**dict(zip(ranks, "120", strict=True)), **variables}.items():
        monkeypatch.setenv(key, value)


@pytest.mark.parametrize(("gpus", "chosen"), [(1, "0"), (4, "3"), (2, "1")])
def test_slurm_s_task_takes_a_gpu_that_it_sees(monkeypatch, gpus, chosen):
    """With --gpus-per-task=1 the fourth task of a machine sees one GPU, number 0."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "3")
    launcher.choose_gpu("slurm")
    assert os.environ["LOCAL_RANK"] == chosen
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(
        ValueError, match=f"5 processes .* {gpus} GPUs: use --nproc-per-node {gpus}"
    ):
        launcher.choose_gpu("pytorch")


@pytest.mark.parametrize("name", ["pytorch", "slurm", "mpi"])
def test_a_launcher_that_does_not_fit_the_environment_is_refused(monkeypatch, name):
    for variable in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match="start with"):
        launcher.init_distributed(name)
    with pytest.raises(ValueError, match="none of none"):
        launcher.init_distributed("torchrun")
    launcher.init_distributed("none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--launcher pytorch"):
        launcher.init_distributed("none")
