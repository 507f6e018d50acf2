"""Bad run folders, tokenizers and checkpoints through the tools that take them, in this process:
each must be refused in one line with exit code 2 or be read as if nothing were wrong with it.

python -m tests.fuzz_files [every Nth]

Prints each input that ends in a traceback, takes over 20 s, makes the canary or grows the process
by 2 GB; and the counts. Inputs are made by rule from one good folder: every value of its JSON files
replaced by every wrong kind, every key left out, bytes cut, flipped and swapped.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from tests.commands import call
from tests.models import TEXT, pretrainer

WRONG = (None, -1, 0, 2**40, 1e308, float("nan"), True, "", "os.system", [], [[1]], {}, {"a": {}})
SECONDS, MEMORY = 20, 2 << 20  # of one input; growth in kB


def good(root: Path) -> Path:
    """A run folder and a photo."""
    words = Tokenizer.train(["a red kite over the hill"] * 3, 270)
    model = pretrainer()
    config, weights = model.run_config(0), model.run_weights()
    config["text"]["vocab_size"] = words.vocab_size
    table = "text.net.embeddings.token_embedding.weight"
    weights[table] = torch.randn(words.vocab_size, TEXT["width"])
    run_folder.write(root / "run", config, weights, words.to_json())
    Image.new("RGB", (32, 32), "red").save(root / "photo.png")
    return root / "run"


def leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values, of long lists and tables the first three."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for number, (key, value) in enumerate(items):
        if number < (3 if len(node) > 20 else 99):
            yield (*path, key)
            if isinstance(value, (dict, list)):
                yield from leaves(value, (*path, key))


def changed(document: Any) -> Iterator[tuple[str, Any]]:
    """The document with each value replaced, and each key left out."""
    for path in leaves(document):
        for wrong in (*WRONG, "left out"):
            made = copy.deepcopy(document)
            node = made
            for key in path[:-1]:
                node = node[key]
            if wrong == "left out":
                del node[path[-1]]
            else:
                node[path[-1]] = wrong
            yield f"{'.'.join(map(str, path))}={wrong!r}", made


def broken(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes cut, flipped, swapped, and of another kind."""
    for share in (0, 0.1, 0.5, 0.99):
        yield f"cut at {share}", content[: int(len(content) * share)]
    for place in range(0, min(len(content), 4000), 397):
        flipped = bytearray(content)
        flipped[place] ^= 0x40
        yield f"flipped at {place}", bytes(flipped)
    yield "nested", b"[" * 200_000 + b"]" * 200_000
    yield "not utf-8", b"\xff\xfe" + content
    yield "header too large", struct.pack("<Q", 2**62) + content[8:]
    yield "zip", b"PK\x03\x04" + content
    yield "nul", b"\0" * len(content)


def inputs(run: Path, work: Path) -> Iterator[tuple[str, Callable[[Path], None], str]]:
    """name, what it does to a copy of the run folder, the tool that reads it."""

    def put(name: str, content: bytes) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            (folder / name).write_bytes(content)

        return write

    for name in ("config.json", "tokenizer.json", "manifest.json"):
        tool = "verify" if name == "manifest.json" else "align"
        for what, made in changed(json.loads((run / name).read_text())):
            yield f"{name}: {what}", put(name, json.dumps(made).encode()), tool
    for name in ("config.json", "tokenizer.json", "manifest.json", "model.safetensors"):
        tool = "verify" if name == "manifest.json" else "align"
        for what, made in broken((run / name).read_bytes()):
            yield f"{name}: {what}", put(name, made), tool
    torch.save({"state_dict": {"w": torch.ones(3)}}, work / "w.pth")
    for what, made in broken((work / "w.pth").read_bytes()):
        yield f"w.pth: {what}", put("w.pth", made), "convert"


class TooLong(BaseException):
    """Beyond `SECONDS`."""


def outcome(tool: str, folder: Path) -> str:
    """'refused', 'read', or what is wrong."""
    argv = {
        "align": ["align", folder, folder.parent / "photo.png", "a red kite"],
        "verify": ["verify", folder],
        "convert": ["convert", folder / "w.pth", folder / "o", "--arch", "vit_tiny_patch16_224"],
    }[tool]
    argv += ["--out", folder.parent / "out.png"] if tool == "align" else []

    def ring(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            code, said = call(*argv)
    except TooLong:
        return "HANGS"
    except BaseException as error:  # a panic of Rust is no Exception
        return f"TRACEBACK {type(error).__name__}: {str(error)[:150]}"
    finally:
        signal.alarm(0)
    if code == 0:
        return "read"
    one_line = code == 2 and said.startswith("error: ") and said.count("\n") == 1
    return "refused" if one_line else f"NOT ONE LINE ({code}): {said[:150]}"


def main() -> int:
    """Try all inputs, or every Nth of them."""
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        run = good(work)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number, (name, spoil, tool) in enumerate(inputs(run, work)):
            if number % every:
                continue
            folder = work / "spoilt"
            shutil.copytree(run, folder)
            spoil(folder)
            found = outcome(tool, folder)
            shutil.rmtree(folder)
            counts[found.split()[0]] += 1
            if found not in ("read", "refused"):
                print(f"{name}: {found}", flush=True)
            elif found == "read":
                print(f"  read: {name}", flush=True)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(dict(counts), f"grown by {grown / 1024:.0f} MB")
    return int(any(key not in ("read", "refused") for key in counts) or grown > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
