"""Shell completion of commands, flags, and configs that ship.

    source <(sparc completion bash)      # in ~/.bashrc; also zsh, and fish with `| source`

Nothing is imported to answer: flags are read out of the tools' source.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sparc_pretrain import shipped
from sparc_pretrain.command import cli, flags

HERE = Path(__file__).parent
BASH = """_sparc() {
    local IFS=$'\\n' word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=($(sparc completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
complete -o filenames -F _sparc sparc
"""
ZSH = f"autoload -U +X bashcompinit && bashcompinit\n{BASH}"
FISH = (
    "complete -c sparc -a '(sparc completion --words (commandline -opc)[2..] (commandline -ct))'\n"
)
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
TAKES_CONFIG = ("pretrain", "train", "study")


def main(argv: list[str] | None = None) -> int:
    """Print a shell's script, or the words that may stand where the cursor is."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["--words"]:  # of another command line: not to be parsed
        print("\n".join(completed(given[1:])))
        return 0
    parser = flags.parser(__doc__)
    parser.add_argument("shell", choices=SHELLS, help="whose script to print")
    print(SHELLS[parser.parse_args(given).shell], end="")
    return 0


def completed(words: list[str]) -> list[str]:
    """What the last of `words`, those after `sparc`, may become."""
    *before, word = words or [""]
    if not before:
        return [name for name in commands() if name.startswith(word)]
    if word.startswith("-"):
        return [flag for flag in flags_of(before[0]) if flag.startswith(word)]
    if len(before) == 1 and before[0] in TAKES_CONFIG and shipped.PREFIX.startswith(word[:16]):
        folder = shipped.folder() / "configs"
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
        every = (shipped.PREFIX + name for name in sorted(names) if not name.startswith("_base_"))
        return [name for name in every if name.startswith(word)] if word else []
    return []


def commands() -> list[str]:
    """The tools, by name."""
    hidden = ("__init__", "__main__", "doctor_checks")
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in hidden)


def flags_of(command: str) -> list[str]:
    """The flags of a tool, those it shares with others included, out of the source."""
    path = HERE / f"{command}.py"
    if not path.is_file():
        return []
    source = path.read_text(encoding="utf-8")
    parts = re.split(r"^def ", Path(flags.__file__).read_text(encoding="utf-8"), flags=re.MULTILINE)
    shared = {part.partition("(")[0]: part for part in parts}
    used = set(re.findall(r"\bflags\.(\w+)\(", source)) & set(shared)
    texts = [source, *(shared[name] for name in sorted(used))]
    known = [f for text in texts for f in re.findall(r'add_argument\(\s*"(--[\w-]+)"', text)]
    return sorted({*known, "--help"})


if __name__ == "__main__":
    cli.guard(main)
