"""The `sparc` command: `sparc pretrain CONFIG` runs tools/pretrain.py, and so on for every tool.

    sparc --help
    sparc pretrain --help
    torchrun --nproc-per-node 8 -m sparc_tools pretrain CONFIG --launcher pytorch

From a checkout that is not installed, `python tools pretrain CONFIG` is the same.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
# In the order in which one meets them.
COMMANDS = {
    "doctor": "what is wrong with this installation, and what mends it",
    "quickstart": "the whole way on built-in data, twenty minutes on two cores",
    "data": "make, convert and check data sets",
    "pretrain": "learn a backbone from captioned images",
    "align": "which patches each word of a caption gathers: picture and viewer",
    "demo": "the same on a page to type into, with boxes and retrieval (needs gradio)",
    "zeroshot": "evaluate a run folder without training",
    "train": "fine-tune a detector, segmentor or captioner with it",
    "test": "evaluate a fine-tuned checkpoint",
    "predict": "detect or segment in any photo",
    "caption": "caption any photo",
    "convert": "other people's weights into run folders, and ours into theirs",
    "study": "compare objectives under one recipe, several seeds each",
    "report": "one page of what the work dirs hold",
    "verify": "check every byte of run folders and checkpoints",
    "pretrain_lm": "train a small language model for the captioner",
    "completion": "shell completion: source <(sparc completion bash)",
}


def help_text() -> str:
    """What `sparc --help` says."""
    lines = ["usage: sparc COMMAND ...", ""]
    lines += [f"  {name:<12} {words}" for name, words in COMMANDS.items()]
    return "\n".join([*lines, "", "sparc COMMAND --help tells more; sparc --version the version."])


def version() -> str:
    """Of the installed distribution, or of the checkout beside this folder."""
    try:
        return metadata.version("sparc-transfer")
    except metadata.PackageNotFoundError:
        text = (HERE.parent / "sparc_pretrain" / "__init__.py").read_text(encoding="utf-8")
        return re.findall(r'"(.+?)"', text)[0]


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code, 2 for a command that is none."""
    given = sys.argv[1:] if argv is None else argv
    name = given[0] if given else "--help"
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0 if given else 2
    if name == "--version":
        print(f"sparc {version()}")
        return 0
    name = name.replace("-", "_")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        told = f" (did you mean {close[0]!r}?)" if close else ": sparc --help lists them"
        print(f"error: no command {given[0]!r}{told}", file=sys.stderr)
        return 2
    if not __package__:  # python tools NAME, of a checkout
        sys.path.insert(0, str(HERE.parent))
    sys.argv = [f"sparc {name}", *given[1:]]
    tool = importlib.import_module(f"{__package__}.{name}" if __package__ else name)
    if name == "doctor":  # it must stand where nothing else does
        return tool.main(given[1:])
    from sparc_pretrain.command import cli

    cli.guard(lambda: tool.main(given[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
