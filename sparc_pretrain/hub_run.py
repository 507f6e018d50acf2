"""Run folders on the Hugging Face hub, by name."""

from __future__ import annotations

import re
from pathlib import Path

from sparc_pretrain import shipped

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Only what a run folder holds: nothing that would have to be unpickled or run.
WANTED = ["config.json", "model.safetensors", "tokenizer.json", "README.md", "manifest.json"]


def is_name(folder: str | Path) -> bool:
    """Whether this is USER/NAME, and no folder here nor what begins with one: `work_dirs/misspelt`
    is a mistake, not a question to the hub.
    """
    text = str(folder)
    here = Path(text).exists() or Path(text.partition("/")[0]).exists()
    return bool(NAME.fullmatch(text)) and not here and text not in shipped.models()


def fetched(name: str) -> Path:
    """The folder of the hub's cache with the run folder USER/NAME, downloaded once.

    Raises FileNotFoundError where there is none, or the hub cannot be reached.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED))
    except Exception as error:  # the hub's client has a dozen types, most of them no OSError
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"no run folder at {name}, and the hub gave none of that name "
            f"({type(error).__name__}: {reason})"
        ) from None
