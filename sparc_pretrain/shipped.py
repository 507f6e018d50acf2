"""What travels with the code: configs, the small model, the pinned versions. In a wheel they lie in
``sparc_pretrain/.mim``, as mm packages have it; in a checkout beside the package.

`sparc_pretrain::det/sparc_coco.py` names a config of ours on every command line and, once
`teach_mmengine` was called (every tool does, and `startup` for other people's), in every config's
`_base_`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from pathlib import Path

PACKAGE = "sparc_pretrain"
PREFIX = f"{PACKAGE}::"
INSTALLED = Path(__file__).parent / ".mim"
CONSOLE = "sparc "  # how sys.argv[0] begins where the `sparc` command started a tool


def folder() -> Path:
    """The folder that holds `configs` and `assets`."""
    return INSTALLED if INSTALLED.is_dir() else Path(__file__).resolve().parents[1]


def located(name: str) -> str:
    """The path of a config: what follows `sparc_pretrain::` below `configs`, any other as it is.

    Raises FileNotFoundError for a config that we do not have, with the nearest.
    """
    if not str(name).startswith(PREFIX):
        return name
    inner, configs = str(name).removeprefix(PREFIX), folder() / "configs"
    if not (configs / inner).is_file():
        known = [path.relative_to(configs).as_posix() for path in configs.rglob("*.py")]
        close = difflib.get_close_matches(inner, known, n=1, cutoff=0.5)
        told = f" (did you mean {PREFIX}{close[0]}?)" if close else ""
        raise FileNotFoundError(f"no config {name}{told}")
    return str(configs / inner)


def models() -> dict[str, Path]:
    """The run folders that ship, by name."""
    return {path.parent.name: path.parent for path in folder().glob("assets/*/manifest.json")}


def teach_mmengine() -> None:
    """Make mmengine find `_base_ = "sparc_pretrain::..."`, and `mmdet::...` without reading every
    metafile of mmdet for it (seconds per base); calling it again changes nothing.

    Our configs are read as files of the reader's own: mmengine's scope of another package would
    hide the classes of mmdet and mmseg that they name.
    """
    from mmengine.config import Config

    original = Config._get_cfg_path
    if getattr(original, "knows_shipped", False):
        return

    def path_of(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return located(cfg_path), None
        scope, several, inner = cfg_path.partition("::")
        package = importlib.util.find_spec(scope) if several and scope.isidentifier() else None
        for place in package.submodule_search_locations or () if package else ():
            if (found := Path(place, ".mim/configs", inner)).is_file():
                return str(found), scope
        return original(cfg_path, filename)

    path_of.knows_shipped = True
    Config._get_cfg_path = staticmethod(path_of)


def spoken(text: str) -> str:
    """`text` with its commands as the reader types them: `sparc pretrain` for `python
    tools/pretrain.py` where the `sparc` command runs, and `sparc_pretrain::` for `configs/` where
    no checkout is.
    """
    if sys.argv[0].startswith(CONSOLE):
        text = re.sub(r"(torchrun[^\n]*? )tools/(\w+)\.py", r"\1-m sparc_tools \2", text)
        text = re.sub(r"(?:python3? )?(?<![\w/])tools/(\w+)\.py", r"sparc \1", text)
    if INSTALLED.is_dir():
        text = re.sub(r"(?<![\w/.])configs/(\w[\w/]*\.py)", rf"{PREFIX}\1", text)
        text = re.sub(r"(?<![\w/.])assets/(\w[\w-]*)", r"\1", text)
    return text
