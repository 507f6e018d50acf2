"""Bad files through the tools that take them, in this process: run folders, tokenizers,
checkpoints, images, captions, COCO and LVIS files, phrases, label maps, labels, records, configs,
tars and their indexes. Each must be refused in one line with exit code 2 or be read.

python -m tests.fuzz_files [every Nth] [part of a name]

Prints each input that ends in a traceback, takes over 20 s or grows the process by 2 GB; what was
read as if nothing were wrong with it; and the counts. Inputs are made by rule from good files:
every value of a JSON file replaced by every wrong kind, every key left out, bytes cut, flipped and
swapped; of a kind with very many, `MOST` evenly.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
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

import numpy as np
import torch
from PIL import Image

from sparc_pretrain import run_folder
from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.scenes import write_scenes
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.metric import Metric
from sparc_pretrain.metrics_file import write_metrics
from tests.commands import call
from tests.models import TEXT, pretrainer

WRONG = (None, -1, 0, 2**40, 1e308, float("nan"), True, "", "os.system", [], [[1]], {}, {"a": {}})
SECONDS, MEMORY, MOST = 20, 2 << 20, 90  # of one input; growth in kB; inputs of one file and rule
NOTES, MAPS = "scenes/annotations", "scenes/ade/annotations/validation"
# tool -> its command line; {} is the folder of the input
TOOLS = {
    "align": "align {}/run {}/photo.png kite --out {}/out.png",
    "verify": "verify {}/run",
    "convert": "convert {}/w.pth {}/o --arch vit_tiny_patch16_224",
    "retrieval": "zeroshot {}/run retrieval --images {}/scenes/images/val --captions {}/captions.*",
    "regions": f"zeroshot {{}}/run regions --images {{}}/scenes/images --size 32"
    f" --annotations {{}}/{NOTES}/lvis_v1_val.json",
    "grounding": "zeroshot {}/run grounding --images {}/scenes/images/val"
    f" --phrases {{}}/{NOTES}/phrases_val.json",
    "segmentation": "zeroshot {}/run segmentation --images {}/scenes/ade/images/validation"
    f" --annotations {{}}/{MAPS} --classes {{}}/scenes/ade/classes.json",
    "index": "data index {}/shards",
    "shards": "data shards --images {}/scenes/images/val --captions {}/captions.* --out {}/made",
    "boxes": "data boxes --kind lvis --images {}/scenes/images --out {}/made"
    f" --annotations {{}}/{NOTES}/lvis_v1_val.json",
    "labels": "zeroshot {}/run classification --images {}/scenes/images/val"
    " --labels {}/labels.csv --classes {}/scenes/ade/classes.json",
    "report": "report {}/records --out {}/report.html",
    "pretrain": "pretrain {}/config.json --work-dir {}/work",
}
UNREAD = ("convert", "pretrain")  # refuse the good files, too: these are no model, and no data
Spoil = Callable[[Path], None]


def good(root: Path) -> Path:
    """A folder with a sound file of every kind."""
    write_scenes(root / "scenes", 1, 2, 48)
    notes = root / NOTES / "captions_val.json"
    captions = read_captions(notes)
    words = Tokenizer.train([text for texts in captions.values() for text in texts], 270)
    model = pretrainer()
    config, weights = model.run_config(0), model.run_weights()
    config["text"]["vocab_size"] = words.vocab_size
    table = "text.net.embeddings.token_embedding.weight"
    weights[table] = torch.randn(words.vocab_size, TEXT["width"])
    run_folder.write(root / "run", config, weights, words.to_json())
    Image.new("RGB", (32, 32), "red").save(root / "photo.png")
    torch.save({"state_dict": {"w": torch.ones(3)}}, root / "w.pth")
    shutil.copy(notes, root / "captions.json")
    photos = sorted((root / "scenes/images/val").iterdir())
    pairs = [(one.stem, one.read_bytes(), one.suffix[1:], captions[one.name]) for one in photos]
    write_shards(pairs, root / "shards")
    labels = "image,label\n" + "".join(f"{photo.name},{n}\n" for n, photo in enumerate(photos))
    (root / "labels.csv").write_text(labels)
    told = dict(config="a.py", data="b", seconds=1.0, per_class={"car": {"AP": 0.5}})
    declared = [Metric("R@1", words="found", headline=True)]
    file, backbone = root / "records" / "metrics.json", {"run": "r", "objective": "Sparc"}
    write_metrics(
        file, "retrieval", {"R@1": 0.5}, {"images": 2}, backbone, declared=declared, **told
    )
    config = {"_base_": "sparc_pretrain::sparc.py", "data": {"sources": "missing"}, "train": [1]}
    (root / "config.json").write_text(json.dumps(config))
    return root


def leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values, of long lists and tables the first three."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for number, (key, value) in enumerate(items):
        if number < (3 if len(node) > 20 else 99):
            yield (*path, key)
            if isinstance(value, (dict, list)):
                yield from leaves(value, (*path, key))


def changed(document: Any) -> Iterator[tuple[str, bytes]]:
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
            yield f"{'.'.join(map(str, path))}={wrong!r}", json.dumps(made).encode()


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


def pictures(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    """Images of every kind, of odd ones too, sound and broken."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    sound = Image.fromarray(noise)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = io.BytesIO()
        sound.save(data, kind)
        yield from ((f"{kind} {what}", made) for what, made in broken(data.getvalue()))
    for mode in ("1", "L", "P", "LA", "RGBA", "I;16"):
        data = io.BytesIO()
        Image.new(mode, size).save(data, "PNG")
        yield f"mode {mode}", data.getvalue()
    for odd in ((1, 1), (1, 4000), (7, 48), (200, 200)):
        data = io.BytesIO()
        Image.new("L", odd).save(data, "PNG")
        yield f"size {odd}", data.getvalue()
    data = io.BytesIO()
    sound.save(data, "PNG")
    for places, size in (("width", 2**31 - 1), ("height", 0), ("width", 40_000)):
        forged = bytearray(data.getvalue())
        at = 16 if places == "width" else 20
        forged[at : at + 4] = struct.pack(">I", size)
        yield f"{places} {size}", bytes(forged)


def tars(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Every field of the first header overwritten, and broken ones."""
    for at in range(0, 512, 25):
        for fill in (b"\0", b"\xff", b"7"):
            yield f"header {at} {fill!r}", content[:at] + fill * 25 + content[at + 25 :]
    yield from broken(content)


def some(made: Iterator[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """At most `MOST` of them, evenly."""
    found = list(made)
    return found[:: -(-len(found) // MOST)]


def inputs(root: Path) -> Iterator[tuple[str, Spoil, str]]:
    """name, what it does to a copy of the good folder, the tool that reads it."""

    def put(name: str, content: bytes) -> Spoil:
        def write(folder: Path) -> None:
            (folder / name).write_bytes(content)

        return write

    def special(name: str, make: Callable[[Path], None]) -> Spoil:
        def replace(folder: Path) -> None:
            (folder / name).unlink()
            make(folder / name)

        return replace

    label = min((root / MAPS).iterdir()).relative_to(root)
    image = min((root / "scenes/images/val").iterdir()).relative_to(root)
    tar = min((root / "shards").glob("*.tar")).relative_to(root)
    read_by = (
        ("run/config.json", "align"),
        ("run/tokenizer.json", "align"),
        ("run/manifest.json", "verify"),
        ("run/model.safetensors", "align"),
        ("w.pth", "convert"),
        ("photo.png", "align"),
        ("captions.json", "retrieval"),
        ("captions.json", "shards"),
        (f"{NOTES}/lvis_v1_val.json", "regions"),
        (f"{NOTES}/lvis_v1_val.json", "boxes"),
        (f"{NOTES}/phrases_val.json", "grounding"),
        ("scenes/ade/classes.json", "segmentation"),
        ("labels.csv", "labels"),
        ("records/metrics.json", "report"),
        ("config.json", "pretrain"),
        (f"{label}", "segmentation"),
        (f"{image}", "retrieval"),
        (f"{image}", "shards"),
        (f"{tar}", "index"),
        (f"{tar}.index", "index"),
    )
    for name, tool in read_by:
        content = (root / name).read_bytes()
        rules = [changed(json.loads(content))] if name.endswith(".json") else []
        rules += [pictures((48, 48))] if name in ("photo.png", f"{label}", f"{image}") else []
        rules += [tars(content) if name == f"{tar}" else broken(content)]
        for rule in rules:
            for what, made in some(rule):
                yield f"{tool} of {name}: {what}", put(name, made), tool
        for what, make in (
            ("a pipe", os.mkfifo),
            ("a folder", Path.mkdir),
            ("a link to itself", lambda path: path.symlink_to(path)),
            ("missing", lambda path: None),
        ):
            yield f"{tool} of {name}: {what}", special(name, make), tool
    table = "image,caption\n" + "".join(f"{image.name},a red kite {n}\n" for n in range(5))
    for kind, text in (
        ("csv", table),
        ("tsv", table.replace(",", "\t")),
        ("txt", f"{image.name}#0\ta kite\n{image.name}#1\ta hill\n"),
        ("jsonl", json.dumps({"image": image.name, "caption": "a kite"}) + "\n"),
    ):
        for what, made in broken(text.encode()):

            def write(folder: Path, kind: str = kind, made: bytes = made) -> None:
                (folder / "captions.json").unlink()
                (folder / f"captions.{kind}").write_bytes(made)

            yield f"retrieval of captions.{kind}: {what}", write, "retrieval"


class TooLong(BaseException):
    """Beyond `SECONDS`."""


def outcome(tool: str, folder: Path) -> str:
    """'refused', 'read', or what is wrong."""
    argv = [word.replace("{}", str(folder)) for word in TOOLS[tool].split()]
    if "zeroshot" in argv:
        argv += ["--out", f"{folder}/metrics.json"]
    argv = [f"{next(folder.glob('captions.*'), 'none')}" if "*" in w else w for w in argv]

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
    lines = said.strip().splitlines()
    one_line = code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return "refused" if one_line else f"NOT ONE LINE ({code}): {said[:300]}"


def main() -> int:
    """Try all inputs, or every Nth of them, or those of one file."""
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        root = good(Path(place) / "good")
        for tool in TOOLS:
            shutil.copytree(root, Path(place) / tool)
            if tool not in UNREAD and outcome(tool, Path(place) / tool) != "read":
                raise AssertionError(f"{tool} does not read the good files")
            shutil.rmtree(Path(place) / tool)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number, (name, spoil, tool) in enumerate(inputs(root)):
            if number % every or part not in name:
                continue
            folder = Path(place) / "spoilt"
            shutil.copytree(root, folder)
            spoil(folder)
            found = outcome(tool, folder)
            shutil.rmtree(folder)
            counts[found.split()[0]] += 1
            if found != "refused":
                print(f"{'  ' if found == 'read' else ''}{name}: {found}", flush=True)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(dict(counts), f"grown by {grown / 1024:.0f} MB")
    return int(any(key not in ("read", "refused") for key in counts) or grown > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
