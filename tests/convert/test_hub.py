"""push_to_hub against a local stand-in of the hub's API."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import timm
import torch

from sparc_pretrain.convert import hub
from sparc_pretrain.convert.export import export
from sparc_pretrain.convert.parts import relative
from sparc_pretrain.convert.to_timm import to_timm
from sparc_pretrain.dual_encoder import DualEncoder
from tests.models import encoder


class LocalHub:
    """HfApi whose repositories are folders below `root`."""

    root = Path()
    tokens: ClassVar[list] = []
    private: ClassVar[dict] = {}

    def __init__(self, token=None):
        self.tokens.append(token)

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        folder = self.root / repo_id
        assert repo_type == "model" and (exist_ok or not folder.exists())
        if not folder.exists():
            self.private[repo_id] = private
        folder.mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id, folder_path, repo_type, commit_message, allow_patterns):
        assert (self.root / repo_id).is_dir(), "upload before create_repo"
        for file in Path(folder_path).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, self.root / repo_id / file.name)
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalHub, "root", tmp_path / "hub")
    monkeypatch.setattr(LocalHub, "tokens", [])
    monkeypatch.setattr(LocalHub, "private", {})
    monkeypatch.setattr(hub, "HfApi", LocalHub)
    return LocalHub


@pytest.fixture
def run(tmp_path) -> Path:
    torch.manual_seed(0)
    return encoder().save_pretrained(tmp_path / "run").path


def test_what_is_pushed_loads_from_the_hubs_layout(local_hub, run, tmp_path):
    export(run, tmp_path / "out", to_timm, "timm")
    (tmp_path / "out" / "optimizer.bin").write_bytes(b"not for others")
    address = hub.push_to_hub(tmp_path / "out", "someone/tower", token="hf_x")
    assert address == "hub/someone/tower/commit/1" and local_hub.tokens == ["hf_x"]
    pushed = local_hub.root / "someone/tower"
    assert {p.name for p in pushed.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = timm.create_model(f"local-dir:{pushed}", pretrained=True).eval()
    image = torch.randn(1, 3, 32, 32)
    wanted = DualEncoder.from_pretrained(run).vision(image)
    assert relative(again.forward_features(image), wanted) < 1e-5


def test_a_run_folder_itself_can_be_pushed_and_is_private_unless_asked(local_hub, run):
    hub.push_to_hub(run, "someone/run")
    hub.push_to_hub(run, "someone/open", private=False)
    assert local_hub.private == {"someone/run": True, "someone/open": False}
    DualEncoder.from_pretrained(local_hub.root / "someone/run")


def test_an_incomplete_folder_and_a_bad_name_do_not_reach_the_hub(local_hub, run, tmp_path):
    with pytest.raises(ValueError, match="USER/NAME"):
        hub.push_to_hub(run, "tower")
    with pytest.raises(FileNotFoundError, match="no folder"):
        hub.push_to_hub(tmp_path / "nowhere", "someone/tower")
    with pytest.raises(FileNotFoundError, match="not complete"):
        hub.push_to_hub(tmp_path, "someone/tower")
    assert local_hub.tokens == []


def test_a_refusal_of_the_hub_is_one_line(local_hub, run, monkeypatch):
    def refuse(self, *args, **options):
        raise RuntimeError("401 Client Error\nRepository Not Found")

    monkeypatch.setattr(LocalHub, "create_repo", refuse)
    with pytest.raises(OSError, match=r"401 Client Error Repository Not Found\); log in"):
        hub.push_to_hub(run, "someone/tower")


def test_a_run_folder_goes_to_the_hub_and_comes_back_by_its_name(local_hub, run, monkeypatch):
    import huggingface_hub
    import yaml

    def snapshot(name, allow_patterns):
        folder = local_hub.root / name
        assert folder.is_dir(), "404"
        assert all(any(fnmatch(p.name, a) for a in allow_patterns) for p in folder.iterdir())
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(run.parent)
    hub.push_to_hub(run, "someone/pairs")
    again, ours = DualEncoder.from_pretrained("someone/pairs"), DualEncoder.from_pretrained(run)
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items())
    card = (local_hub.root / "someone/pairs/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "other" and front["library_name"] == "sparc_pretrain"
    assert front["pipeline_tag"] == "zero-shot-image-classification"
    with pytest.raises(FileNotFoundError, match=r"no run folder at someone/other, and the hub"):
        DualEncoder.from_pretrained("someone/other")
    (run.parent / "work_dirs").mkdir()  # a misspelt path below a folder that is here asks nobody
    with pytest.raises(FileNotFoundError, match="pre-training writes"):
        DualEncoder.from_pretrained("work_dirs/misspelt")
