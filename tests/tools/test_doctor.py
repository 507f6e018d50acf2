"""The doctor on invented installations, and on the one that runs the tests."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "doctor.py"


def load_doctor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doctor_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


doctor = load_doctor()

HEALTHY = {
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "numpy": "2.2.6",
    "timm": "1.0.31",
    "transformers": "5.23.0",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "onedl-mmsegmentation": "1.4.2",
    "opencv-python-headless": "4.12.0.88",
} | dict.fromkeys((*doctor.ALSO_REQUIRED, *doctor.ALSO_FOR_TRANSFER), "1.0")
PROBE = {"pair": ["2.14.1", "0.29.1"], "gpus": [], "kernels": "absent"}


def levels(findings: list[Any]) -> set[str]:
    return {finding.level for finding in findings}


def test_constraints_are_read_with_their_comments_extras_and_markers() -> None:
    text = "# pins\ntorch==2.14.1\nNumPy == 2.2.6 ; python_version > '3'\nPy_Yaml[c]==6.0 # why\n"
    text += "loose>=1\n-r other.txt\n\nonedl-mmcv==2.3.6\n"
    assert doctor.parse_constraints(text) == {
        "torch": "2.14.1",
        "numpy": "2.2.6",
        "py-yaml": "6.0",
        "onedl-mmcv": "2.3.6",
    }


def test_a_healthy_installation_has_only_good_findings() -> None:
    findings = [
        *doctor.check_versions(HEALTHY, HEALTHY),
        *doctor.check_numpy(HEALTHY, HEALTHY),
        *doctor.check_forks(HEALTHY, {}, HEALTHY),
        *doctor.check_opencv(HEALTHY),
        doctor.check_python((3, 11, 4)),
        doctor.check_pair(PROBE, HEALTHY),
        doctor.check_kernels(PROBE, HEALTHY),
        doctor.check_gpus(PROBE, False, HEALTHY),
        doctor.check_space("/x", 10 * doctor.GIGABYTE),
        doctor.check_shared_memory(None),
    ]
    assert levels(findings) == {"ok"}
    assert "Nothing is broken, 0 to look at" in doctor.render(findings)


def test_another_version_than_the_tested_one_is_a_warning_with_the_command() -> None:
    findings = doctor.check_versions({**HEALTHY, "timm": "0.9.0", "rich": "1"}, HEALTHY)
    (finding,) = [finding for finding in findings if finding.level != "ok"]
    assert (finding.name, finding.level) == ("timm", "warn")
    assert finding.detail == "0.9.0, tested with 1.0.31"
    assert finding.remedy == "pip install timm==1.0.31"


def test_a_build_tag_is_not_another_version() -> None:
    assert levels(doctor.check_versions({**HEALTHY, "torch": "2.14.1+cpu"}, HEALTHY)) == {"ok"}


def test_other_packages_are_counted_when_right_and_named_when_wrong() -> None:
    pinned = {**HEALTHY, "rich": "15.0", "scipy": "1.17", "absent": "1"}
    findings = doctor.check_versions({**HEALTHY, "rich": "15.0", "scipy": "1.0"}, pinned)
    found = {finding.name: finding for finding in findings}
    also = len((*doctor.ALSO_REQUIRED, *doctor.ALSO_FOR_TRANSFER))
    # with rich and OpenCV, without scipy
    assert found["other packages"].detail.startswith(f"{also + 2 - 1} as in")
    assert found["scipy"].level == "warn" and not {"rich", "absent"} & set(found)


def test_a_missing_package_breaks_pre_training_but_a_missing_mmdet_only_transfer() -> None:
    installed = {k: v for k, v in HEALTHY.items() if k not in ("torch", "onedl-mmdetection")}
    found = {f.name: f for f in doctor.check_versions(installed, HEALTHY)}
    assert found["torch"].level == "fail"
    assert found["onedl-mmdetection"].level == "warn"
    assert found["onedl-mmdetection"].remedy == "pip install onedl-mmdetection==3.5.1"


def test_without_constraints_no_version_is_compared() -> None:
    assert levels(doctor.check_versions({**HEALTHY, "timm": "0.1"}, {})) == {"ok"}


def test_numpy_1_is_broken() -> None:
    (finding,) = doctor.check_numpy({"numpy": "1.26.4"}, {})
    assert finding.level == "fail" and finding.remedy == "pip install numpy==2.2.6"


def test_python_3_10_is_broken() -> None:
    assert doctor.check_python((3, 10, 2)).level == "fail"


def test_an_original_installed_over_its_fork_is_removed_and_the_fork_put_back() -> None:
    installed = {**HEALTHY, "mmsegmentation": "1.2.2"}
    (finding,) = doctor.check_forks(installed, {"onedl-mmsegmentation": 300}, {})
    assert finding.level == "fail" and "mmsegmentation 1.2.2" in finding.detail
    assert finding.remedy == (
        "pip uninstall -y mmsegmentation && "
        "pip install --force-reinstall --no-deps onedl-mmsegmentation==1.4.2"
    )


def test_an_original_without_its_fork_is_exchanged_for_it() -> None:
    (finding,) = doctor.check_forks({"mmcv-full": "1.7.1"}, {}, HEALTHY)
    assert finding.level == "fail"
    assert finding.remedy == "pip uninstall -y mmcv-full && pip install onedl-mmcv==2.3.6"


def test_a_fork_overwritten_by_an_original_that_has_gone_again_is_found_by_its_files() -> None:
    (finding,) = doctor.check_forks(HEALTHY, {"onedl-mmcv": 3}, HEALTHY)
    assert finding.level == "fail" and finding.detail.startswith("3 of its files")
    assert finding.remedy == "pip install --force-reinstall --no-deps onedl-mmcv==2.3.6"


def test_altered_files_are_those_that_differ_from_the_record_or_are_gone(tmp_path: Path) -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"same").digest()).rstrip(b"=").decode()
    for name, content in (("same", b"same"), ("changed", b"other")):
        (tmp_path / name).write_bytes(content)
    records = [(tmp_path / name, digest) for name in ("same", "changed", "gone")]
    assert doctor.altered_files(records) == 2


def test_opencv_in_two_versions_is_a_warning_and_in_one_is_not() -> None:
    both = {"opencv-python": "4.12.0.88", "opencv-python-headless": "4.9.0.80"}
    (finding,) = doctor.check_opencv(both)
    assert finding.level == "warn" and "opencv-python==4.9.0.80" in finding.remedy
    assert doctor.check_opencv(dict.fromkeys(both, "4.12.0.88")) == []


def test_torch_and_torchvision_of_different_builds_are_broken_with_the_pair_to_install() -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"
    finding = doctor.check_pair({"pair_error": error, "torch_version": "2.14.1+cpu"}, HEALTHY)
    assert finding.level == "fail" and finding.detail == f"not built for each other: {error}"
    assert finding.remedy == (
        "pip install --force-reinstall --no-deps --index-url https://download.pytorch.org/whl/cpu "
        "torch==2.14.1 torchvision==0.29.1"
    )


def test_torch_that_cannot_be_imported_is_broken_and_leaves_the_rest_unknown() -> None:
    probe = {"pair_error": "ImportError: libtorch.so", "gpus_error": "x", "kernels_error": "y"}
    assert doctor.check_pair(probe, {}).level == "fail"
    assert doctor.check_gpus(probe, True, {}).level == "warn"
    kernels = doctor.check_kernels(probe, HEALTHY)
    assert kernels.level == "warn" and kernels.remedy is None


@pytest.mark.parametrize(
    "kernels,level,word",
    [
        ({"kernels": "compiled"}, "ok", "compiled"),
        ({"kernels": "absent"}, "ok", r"transfer/mm/ops/standin.py"),
        ({"kernels_error": "ImportError: undefined symbol: _ZN3c10"}, "warn", "undefined symbol"),
    ],
)
def test_the_origin_of_mmcv_kernels_is_told(kernels: dict[str, str], level: str, word: str) -> None:
    finding = doctor.check_kernels({**kernels, "pair": []}, HEALTHY)
    assert finding.level == level and word in finding.detail
    assert (finding.remedy is None) == (level == "ok")


def test_gpus_are_counted_by_kind() -> None:
    gpus = [["A100", 80 * doctor.GIGABYTE]] * 2 + [["T4", 15 * doctor.GIGABYTE]]
    finding = doctor.check_gpus({"gpus": gpus}, True, {})
    assert finding.detail == "2 x A100, 80.0 GiB; 1 x T4, 15.0 GiB"


def test_a_gpu_that_torch_does_not_see_is_a_warning_with_the_way_to_it() -> None:
    finding = doctor.check_gpus({"gpus": [], "cuda": None}, True, HEALTHY)
    assert finding.level == "warn" and "built for CPUs alone" in finding.detail
    assert finding.remedy == "pip install --force-reinstall torch==2.14.1 torchvision==0.29.1"
    finding = doctor.check_gpus({"gpus": [], "cuda": "13.0"}, True, HEALTHY)
    assert finding.level == "warn" and "update the driver" in finding.remedy


def test_every_package_of_setup_py_is_missed() -> None:
    tree = ast.parse((SCRIPT.parents[1] / "setup.py").read_text())
    (wanted,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    names = {doctor.canonical(re.match(r"[\w.-]+", line)[0]) for line in wanted}
    assert names == HEALTHY.keys()
    for name in names:
        installed = {k: v for k, v in HEALTHY.items() if k != name}
        findings = [*doctor.check_versions(installed, HEALTHY), *doctor.check_opencv(installed)]
        assert any("not installed" in f.detail and f.level != "ok" for f in findings), name


def test_a_full_disk_and_a_small_shared_memory_are_warnings() -> None:
    assert doctor.check_space("/x", 1000).level == "warn"
    shared = doctor.check_shared_memory(64 * 1024**2)
    assert shared.level == "warn" and shared.detail.startswith("64 MiB")
    assert "--shm-size" in shared.remedy


def test_the_report_is_aligned_and_puts_each_remedy_below_its_finding() -> None:
    findings = [
        doctor.Finding("short", "ok", "fine"),
        doctor.Finding("a longer name", "fail", "bad", "mend it"),
        doctor.Finding("x", "warn", "odd"),
    ]
    first, second, remedy, third, _, verdict = doctor.render(findings).splitlines()
    assert first.index("fine") == second.index("bad") == remedy.index("-> mend it")
    assert third.startswith("warn") and second.startswith("FAIL") and first.startswith("  ok")
    assert verdict == "1 broken, 1 to look at, 1 fine."


@pytest.mark.parametrize("level,code", [("ok", 0), ("warn", 0), ("fail", 1)])
def test_the_exit_code_is_1_only_when_something_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: str, code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("x", level, "y", "z")])
    assert doctor.main(["--json"]) == code
    report = json.loads(capsys.readouterr().out)
    expected = [{"name": "x", "level": level, "detail": "y", "remedy": "z"}]
    assert report == {"ok": code == 0, "findings": expected}


def test_a_missing_constraints_file_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "probe_imports", lambda: dict(PROBE))
    monkeypatch.setattr(doctor, "fork_records", lambda fork: [])
    findings = doctor.examine(tmp_path / "constraints.txt")
    assert findings[0].level == "warn" and findings[0].name == "constraints.txt"


@pytest.mark.parametrize("death", ["import os; os.abort()", "raise ImportError('libtorch.so')"])
def test_a_python_that_dies_while_importing_is_reported(
    monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    monkeypatch.setattr(doctor, "PROBE", death)
    assert "Python ended with code" in doctor.probe_imports()["pair_error"]


def test_an_import_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", "import time; time.sleep(30)")
    assert "took more than" in doctor.probe_imports(timeout=0.2)["pair_error"]


def test_the_doctor_itself_imports_nothing_that_could_be_broken() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in child.stdout.split()}
    assert not {"torch", "mmcv", "mmengine", "numpy", "sparc_pretrain", "transfer"} & loaded


def test_here_torch_and_torchvision_are_a_pair_and_no_fork_is_overwritten() -> None:
    child = subprocess.run([sys.executable, SCRIPT, "--json"], capture_output=True, text=True)
    found = {finding["name"]: finding for finding in json.loads(child.stdout)["findings"]}
    assert found["torch + torchvision"]["level"] == "ok", found["torch + torchvision"]
    assert found["forks"]["level"] == "ok"
    assert found["mmcv._ext"]["level"] == "ok"


def test_the_wrong_python_is_told_first_and_nothing_is_installed_into_it(tmp_path: Path) -> None:
    assert doctor.check_environment(HEALTHY, tmp_path, inside=False) == []
    bare: dict[str, str] = {"pip": "25.0"}
    (beside,) = doctor.check_environment(bare, tmp_path / ".venv", inside=False)
    assert beside.level == "fail" and f"source {tmp_path}/.venv/bin/activate" in beside.remedy
    (system,) = doctor.check_environment(bare, None, inside=False)
    assert "make setup" in system.remedy and "pip install torch" not in system.remedy
    assert doctor.check_environment(bare, None, inside=True) == []  # half an installation
