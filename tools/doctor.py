"""Says what is wrong with an installation, and the command that mends it.

    python tools/doctor.py [--json]

Exit code 0, or 1 when something is broken (fail); a warning alone does not count. Nothing of torch,
mmcv or this product is imported here, only in child processes: the doctor must stand when they
fall. For the same reason ``main`` does not pass through ``engine.door``; it has no input that can
be wrong.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given

from doctor_checks import (
    ALSO_FOR_TRANSFER,
    ALSO_REQUIRED,
    CONSTRAINTS,
    FORKS,
    GIGABYTE,
    Finding,
    Level,
    canonical,
    check_environment,
    check_forks,
    check_gpus,
    check_kernels,
    check_numpy,
    check_opencv,
    check_pair,
    check_python,
    check_shared_memory,
    check_space,
    check_versions,
    parse_constraints,
)

__all__ = ["ALSO_FOR_TRANSFER", "ALSO_REQUIRED", "GIGABYTE", "examine", "main", "render"]

ROOT = Path(__file__).resolve().parents[1]
PLACES = (ROOT, ROOT / "sparc_pretrain" / ".mim")  # of a checkout, of an installed wheel
MARKS: dict[Level, str] = {"ok": "ok", "warn": "warn", "fail": "FAIL"}

PROBE = """
import json, sys
found = {"python": sys.version.split()[0]}
def attempt(name, action):
    try:
        found[name] = action()
    except Exception as error:
        found[name + "_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
def pair():
    import torch, torchvision
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    return [torch.__version__, torchvision.__version__]
def gpus():
    import torch
    found["cuda"] = torch.version.cuda
    if not torch.cuda.is_available():
        return []
    every = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [[gpu.name, gpu.total_memory] for gpu in every]
def kernels():
    import importlib, mmcv
    try:
        importlib.import_module("mmcv._ext")
    except ModuleNotFoundError as error:
        if error.name != "mmcv._ext":
            raise
        return "absent"
    return "compiled"
attempt("pair", pair)
attempt("gpus", gpus)
attempt("kernels", kernels)
print("\\n" + json.dumps(found))
"""


def altered_files(records: Iterable[tuple[Path, str]]) -> int:
    """Counts the files that are gone or whose sha256 differs.

    Args:
        records: path and digest, as in a wheel's RECORD: urlsafe base64 without padding.
    """
    count = 0
    for path, digest in records:
        try:
            content = hashlib.sha256(path.read_bytes()).digest()
        except OSError:
            count += 1
        else:
            count += base64.urlsafe_b64encode(content).rstrip(b"=").decode() != digest
    return count


def installed_versions() -> dict[str, str]:
    """Returns canonical name -> version of every distribution that this Python sees."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if distribution.name:  # a half-removed distribution has none
            found.setdefault(canonical(distribution.name), distribution.version)
    return found


def fork_records(fork: str) -> list[tuple[Path, str]]:
    """Path and recorded sha256 of each Python file of an installed fork; empty if absent."""
    try:
        files = metadata.distribution(fork).files or []
    except metadata.PackageNotFoundError:
        return []
    return [
        (Path(str(file.locate())), file.hash.value)
        for file in files
        if file.suffix == ".py" and file.hash is not None and file.hash.mode == "sha256"
    ]


def probe_imports(timeout: float = 120.0) -> dict[str, Any]:
    """Imports torch, torchvision and mmcv in a child process and returns what it found.

    Keys ``pair``, ``gpus``, ``kernels``, each replaced by ``NAME_error`` where its import failed,
    and ``cuda``, what torch is built for; without an answer (the child died) ``pair_error`` alone.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired:
        return {"pair_error": f"importing torch took more than {timeout:.0f} s"}
    try:
        return dict(json.loads(child.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return {"pair_error": f"Python ended with code {child.returncode}: {last}"}


def pins() -> Path:
    """The file of tested versions, wherever this product lies."""
    return next(
        (p / CONSTRAINTS for p in PLACES if (p / CONSTRAINTS).is_file()), ROOT / CONSTRAINTS
    )


def other_environment() -> Path | None:
    """The `.venv` here or beside this product, when another Python runs the doctor."""
    for folder in (Path.cwd(), ROOT):
        venv = folder / ".venv"
        if (venv / "bin" / "python").exists() and Path(sys.prefix).resolve() != venv.resolve():
            return venv
    return None


def examine(constraints: Path | None = None) -> list[Finding]:
    """Looks at everything, in the order of the report."""
    constraints = constraints or pins()
    installed = installed_versions()
    findings = check_environment(installed, other_environment(), sys.prefix != sys.base_prefix)
    if findings:  # what this Python lacks is not to be installed into it
        return [*findings, check_python(sys.version_info)]
    if constraints.is_file():
        pinned = parse_constraints(constraints.read_text(encoding="utf-8"))
    else:
        pinned = {}
        findings.append(Finding(constraints.name, "warn", "absent: versions are not compared"))
    probe = probe_imports()
    probe["torch_version"] = installed.get("torch", "")
    altered = {fork: altered_files(fork_records(fork)) for fork in FORKS}
    shm = Path("/dev/shm")
    has_driver = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    findings.append(check_python(sys.version_info))
    findings += check_versions(installed, pinned)
    findings += check_numpy(installed, pinned)
    findings += check_forks(installed, altered, pinned)
    findings += check_opencv(installed)
    findings += [
        check_pair(probe, pinned),
        check_kernels(probe, installed),
        check_gpus(probe, has_driver, pinned),
        check_space(os.getcwd(), shutil.disk_usage(".").free),
        check_shared_memory(shutil.disk_usage(shm).total if shm.is_dir() else None),
    ]
    return findings


def render(findings: Sequence[Finding]) -> str:
    """Returns the report: one aligned line per finding, its remedy below it, and the verdict."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]:>4}  {finding.name:<{width}}  {finding.detail}")
        if finding.remedy and finding.level != "ok":
            lines.append(f"{'':>4}  {'':<{width}}  -> {finding.remedy}")
    counts = {level: sum(f.level == level for f in findings) for level in MARKS}
    verdict = "Nothing is broken" if not counts["fail"] else f"{counts['fail']} broken"
    return "\n".join([*lines, "", f"{verdict}, {counts['warn']} to look at, {counts['ok']} fine."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    findings = examine()
    broken = any(finding.level == "fail" for finding in findings)
    if options.json:
        report = {"ok": not broken, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=1))
    else:
        print(render(findings))
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
