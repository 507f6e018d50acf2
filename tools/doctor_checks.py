"""What the doctor knows: facts about an installation in, findings with their remedies out. Nothing
is imported here but the standard library, see doctor.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CONSTRAINTS = "constraints.txt"
Level = Literal["ok", "warn", "fail"]

# The packages without which nothing, or no transfer, runs; those that have a line of their own in
# the report, and the others of setup.py.
REQUIRED = ("torch", "torchvision", "numpy", "onedl-mmengine", "timm", "transformers")
ALSO_REQUIRED = (
    "braceexpand", "ftfy", "matplotlib", "open-clip-torch", "pillow", "pydantic-core", "regex",
    "safetensors", "scipy", "tensorboard", "textblob", "tokenizers", "tqdm",
)  # fmt: skip
FOR_TRANSFER = ("onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation")
ALSO_FOR_TRANSFER = (
    "faster-coco-eval", "hotcoco", "jinja2", "pycocoevalcap", "pycocotools", "scikit-learn",
)  # fmt: skip
# The fork's distribution and the originals that write over the same folder of site-packages.
FORKS = {
    "onedl-mmengine": ("mmengine", "mmengine-lite"),
    "onedl-mmcv": ("mmcv", "mmcv-full", "mmcv-lite"),
    "onedl-mmdetection": ("mmdet",),
    "onedl-mmsegmentation": ("mmsegmentation",),
}
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
GIGABYTE = 1024**3
ENOUGH_DISK = 5 * GIGABYTE  # two checkpoints of a ViT-B dual encoder with its optimizer, and room
ENOUGH_SHM = 1 * GIGABYTE  # eight loader workers with two batches of 32 images of 224 pixels each


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and how to mend it."""

    name: str
    level: Level
    detail: str
    remedy: str | None = None


def canonical(name: str) -> str:
    """Returns a distribution's name as pip compares it: lower case, runs of ``-_.`` as one dash."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_constraints(text: str) -> dict[str, str]:
    """Returns ``{name: version}`` of the ``name==version`` lines; comments and markers are cut
    off.
    """
    pinned = {}
    for line in text.splitlines():
        found = re.match(r"\s*([\w.-]+)(?:\[[^]]*\])?\s*==\s*([^\s;#,]+)", line)
        if found:
            pinned[canonical(found[1])] = found[2]
    return pinned


def pip_install(names: Iterable[str], pinned: Mapping[str, str], options: str = "") -> str:
    """Returns the command that installs ``names`` at their pinned versions."""
    wanted = [f"{name}=={pinned[name]}" if name in pinned else name for name in names]
    return " ".join(filter(None, ["pip install", options, *wanted]))


def check_environment(
    installed: Mapping[str, str], venv: Path | None, inside: bool
) -> list[Finding]:
    """Whether this is the Python that the product was installed into; nothing where it may be.

    Args:
        installed: canonical name -> version.
        venv: a virtual environment beside the product that does not run this, None where none is.
        inside: whether this Python is of a virtual environment.
    """
    absent = [name for name in REQUIRED if name not in installed]
    if not absent:
        return []
    if venv is not None:
        detail = f"this Python lacks {', '.join(absent)}, and is not that of {venv}"
        remedy = f"source {venv}/bin/activate   (then run the same command again)"
    elif inside:
        return []  # half an installation: the lines below name what is missing
    else:
        detail = f"this is the system's Python, without {', '.join(absent)}"
        remedy = "make setup && source .venv/bin/activate   (in the checkout; or pip install the "
        remedy += "wheel in a virtual environment)"
    return [Finding("environment", "fail", detail, remedy)]


def check_versions(installed: Mapping[str, str], pinned: Mapping[str, str]) -> list[Finding]:
    """One finding per main package, per missing one and per one that is not as pinned; one for the
    rest.

    Args:
        installed: canonical name -> version; as :func:`installed_versions`.
        pinned: the same, from ``constraints.txt``; empty without such a file.
    """
    findings, as_pinned = [], 0
    main = (*REQUIRED, *FOR_TRANSFER)
    missing = [n for n in (*ALSO_REQUIRED, *ALSO_FOR_TRANSFER) if n not in installed]
    others = sorted(name for name in pinned if name in installed and name not in main)
    for name in (*main, *missing, *others):
        here, wanted = installed.get(name), pinned.get(name)
        remedy = pip_install([name], pinned)
        if here is None:
            # A machine that only pre-trains need not have mmcv, mmdet and mmseg.
            always = name in (*REQUIRED, *ALSO_REQUIRED)
            level: Level = "fail" if always else "warn"
            use = "" if always else " (needed by transfer)"
            findings.append(Finding(name, level, f"not installed{use}", remedy))
        elif wanted is not None and here.split("+")[0] != wanted.split("+")[0]:
            findings.append(Finding(name, "warn", f"{here}, tested with {wanted}", remedy))
        elif name in main:
            findings.append(Finding(name, "ok", here))
        else:
            as_pinned += 1
    if as_pinned:
        findings.append(Finding("other packages", "ok", f"{as_pinned} as in {CONSTRAINTS}"))
    return findings


def check_python(version: Sequence[int]) -> Finding:
    """The code is written for, and tested with, Python 3.11 and later."""
    text = ".".join(map(str, version[:3]))
    if tuple(version[:2]) >= (3, 11):
        return Finding("python", "ok", text)
    return Finding("python", "fail", f"{text}, must be 3.11 or later", "python3.11 -m venv .venv")


def check_numpy(installed: Mapping[str, str], pinned: Mapping[str, str]) -> list[Finding]:
    """The onedl packages and OpenCV are built and tested against numpy 2."""
    version = installed.get("numpy")
    if version is None or version.split(".")[0] == "2":
        return []
    remedy = pip_install(["numpy"], {"numpy": "2.2.6", **pinned})
    return [Finding("numpy major", "fail", f"{version}, must be 2", remedy)]


def check_forks(
    installed: Mapping[str, str], altered: Mapping[str, int], pinned: Mapping[str, str]
) -> list[Finding]:
    """Whether an OpenMMLab original lies over, or in the place of, its maintained fork.

    Args:
        installed: canonical name -> version.
        altered: fork -> number of its files that are not as installed; as :func:`altered_files`.
        pinned: canonical name -> version.
    """
    findings = []
    for fork, originals in FORKS.items():
        rivals = [name for name in originals if name in installed]
        version = {fork: installed[fork]} if fork in installed else {}
        again = pip_install([fork], {**version, **pinned}, "--force-reinstall --no-deps")
        remove = f"pip uninstall -y {' '.join(rivals)} && " if rivals else ""
        named = ", ".join(f"{name} {installed[name]}" for name in rivals)
        if rivals and fork in installed:
            detail = f"{named} is installed over it"
            findings.append(Finding(fork, "fail", detail, remove + again))
        elif rivals:
            detail = f"{named} stands in its place and does not run on current torch and numpy"
            findings.append(Finding(fork, "fail", detail, remove + pip_install([fork], pinned)))
        elif altered.get(fork):
            detail = f"{altered[fork]} of its files are missing or not its own"
            findings.append(Finding(fork, "fail", detail, again))
    return findings or [Finding("forks", "ok", "no original mm package over an onedl one")]


def check_opencv(installed: Mapping[str, str]) -> list[Finding]:
    """The OpenCV distributions share the folder ``cv2``: of two versions, the last written wins."""
    here = {name: installed[name] for name in OPENCV if name in installed}
    if not here:
        remedy = "pip install opencv-python-headless"
        return [Finding("opencv", "fail", "not installed (mmengine needs it)", remedy)]
    if len(set(here.values())) < 2:
        return []
    detail = "two versions in one folder: " + ", ".join(f"{k} {v}" for k, v in here.items())
    oldest = min(here.values(), key=_as_numbers)
    remedy = "pip install --force-reinstall --no-deps " + " ".join(f"{k}=={oldest}" for k in here)
    return [Finding("opencv", "warn", detail, remedy)]


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def check_pair(probe: Mapping[str, Any], pinned: Mapping[str, str]) -> Finding:
    """Whether torch and torchvision belong together: torchvision's nms is called once."""
    if "pair" in probe:
        return Finding("torch + torchvision", "ok", " + ".join(probe["pair"]))
    error = probe.get("pair_error", "no answer")
    options = "--force-reinstall --no-deps"
    if "+cpu" in probe.get("torch_version", ""):
        options += " --index-url https://download.pytorch.org/whl/cpu"
    remedy = pip_install(["torch", "torchvision"], pinned, options)
    cause = "not built for each other" if "torchvision::" in error else "cannot be imported"
    return Finding("torch + torchvision", "fail", f"{cause}: {error}", remedy)


def check_kernels(probe: Mapping[str, Any], installed: Mapping[str, str]) -> Finding:
    """Where ``mmcv._ext`` comes from: compiled, ours (the usual case), or compiled for another
    torch.
    """
    name, version = "mmcv._ext", installed.get("onedl-mmcv")
    if version is None:
        return Finding(name, "warn", "no mmcv (needed by transfer)")
    if probe.get("kernels") == "compiled":
        return Finding(name, "ok", "compiled")
    if probe.get("kernels") == "absent":
        return Finding(name, "ok", "not compiled: the kernels of transfer/mm/ops/standin.py answer")
    error = probe.get("kernels_error", "no answer")
    if "pair_error" in probe:
        return Finding(name, "warn", "unknown until torch and torchvision can be imported")
    # Without kernels mmcv installs in seconds and works; compiling needs torch <= 2.13.
    again = "--force-reinstall --no-deps --no-cache-dir"
    remedy = pip_install(["onedl-mmcv"], {"onedl-mmcv": version}, again)
    detail = f"does not load, the kernels of transfer/mm/ops/standin.py answer: {error}"
    return Finding(name, "warn", detail, remedy)


def check_gpus(probe: Mapping[str, Any], present: bool, pinned: Mapping[str, str]) -> Finding:
    """Name, number and memory of the CUDA devices; none is no fault, unless one is `present` (its
    driver is) and torch does not see it.
    """
    gpus = probe.get("gpus")
    if gpus is None:
        return Finding("gpu", "warn", f"unknown: {probe.get('gpus_error', 'no answer')}")
    if not gpus and present and probe.get("cuda") is None:
        remedy = pip_install(["torch", "torchvision"], pinned, "--force-reinstall")
        detail = "there is one, and this torch is built for CPUs alone"
        return Finding("gpu", "warn", detail, remedy)
    if not gpus and present:
        detail = f"there is one, and torch, built for CUDA {probe['cuda']}, cannot use it"
        remedy = "nvidia-smi   (the CUDA version it shows must not be lower: update the driver)"
        return Finding("gpu", "warn", detail, remedy)
    if not gpus:
        return Finding("gpu", "ok", "none, the CPU is used")
    kinds = {name: memory for name, memory in gpus}
    counted = (f"{[g[0] for g in gpus].count(k)} x {k}, {_size(m)}" for k, m in kinds.items())
    return Finding("gpu", "ok", "; ".join(counted))


def check_space(folder: str, free: int) -> Finding:
    """Room for checkpoints in ``folder``: ``free`` bytes."""
    if free >= ENOUGH_DISK:
        return Finding("disk", "ok", f"{_size(free)} free in {folder}")
    detail = f"{_size(free)} free in {folder}, checkpoints want {_size(ENOUGH_DISK)}"
    return Finding("disk", "warn", detail, f"du -xh {folder} | sort -h | tail -20")


def check_shared_memory(total: int | None) -> Finding:
    """Size of /dev/shm in bytes, through which loader workers hand over batches; None: there is
    none.
    """
    if total is None:
        return Finding("/dev/shm", "ok", "none on this system")
    if total >= ENOUGH_SHM:
        return Finding("/dev/shm", "ok", _size(total))
    detail = f"{_size(total)}: loader workers may die with a bus error"
    remedy = "mount -o remount,size=8G /dev/shm   (in a container: docker run --shm-size=8g ...)"
    return Finding("/dev/shm", "warn", detail, remedy)


def _size(number: int) -> str:
    return f"{number / GIGABYTE:.1f} GiB" if number >= GIGABYTE else f"{number / 1024**2:.0f} MiB"
