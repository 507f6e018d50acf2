"""Weights in and out: checkpoints of open_clip, timm and Hugging Face <-> run folders.

In, by name (cache or hub), from a folder, or offline from a file of weights:
python tools/convert.py openai/clip-vit-base-patch16 runs/clip
python tools/convert.py ViT-B-16:laion2b_s34b_b88k runs/laion
python tools/convert.py vit_base_patch14_reg4_dinov2.lvd142m runs/dinov2
python tools/convert.py model.safetensors runs/siglip --arch ViT-B-16-SigLIP
Out:
python tools/convert.py work_dirs/sparc/run exported --to timm|hf|open_clip [--push USER/NAME]
python tools/convert.py work_dirs/sparc/run small --half
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from sparc_pretrain.convert.export import Writer
    from sparc_pretrain.convert.parts import Parts

WRITERS = {"timm": "timm", "hf": "transformers", "open_clip": "open_clip"}  # kind -> library
KINDS = ("open_clip", "timm", "hf")
LOADED = ("model.safetensors", "pytorch_model.bin")  # of a folder with a config.json


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    parser.add_argument("source", help="name, folder or file of weights; with --to a run folder")
    parser.add_argument("out", help="the run folder to write; with --to the exported folder")
    parser.add_argument("--kind", choices=KINDS, help="of the source, where its name does not say")
    parser.add_argument("--arch", help="of a file: timm's or open_clip's NAME[:TAG], or .json")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="timm arguments: img_size=512"
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--ema", action="store_true", help="of a checkpoint: its moving average")
    kept.add_argument("--raw", action="store_true", help="its trained weights (default: average)")
    parser.add_argument("--vision-only", action="store_true", help="leave the text tower out")
    parser.add_argument("--to", choices=sorted(WRITERS), help="write a run folder for that library")
    parser.add_argument(
        "--half", action="store_true", help="copy a run folder with float16 weights, half its size"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--push", metavar="USER/NAME", help="upload OUT to the Hugging Face hub")
    parser.add_argument("--public", action="store_true", help="a repository made by --push is")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; nothing is written unless the features are equal."""
    args = parse(argv)
    from sparc_pretrain import run_folder
    from sparc_pretrain.convert import parts as converted
    from sparc_pretrain.convert.export import export
    from sparc_pretrain.convert.files import refuse_existing
    from sparc_pretrain.convert.half import halve
    from sparc_pretrain.convert.hub import push_to_hub

    refuse_existing(args.out, args.force)
    if args.half:
        for name in ("to", "kind", "arch", "set", "vision_only", "ema", "raw"):
            if getattr(args, name):
                raise ValueError(
                    f"--half copies a run folder; leave --{name.replace('_', '-')} out"
                )
        run = halve(args.source, args.out)
        size = (run.path / run_folder.WEIGHTS).stat().st_size / 1e6
        print(f"{run.path}: {size:.1f} MB of float16 weights")
        notes: list[str] = []
    elif args.to:
        for name in ("kind", "arch", "set", "vision_only", "ema", "raw"):
            if getattr(args, name):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is about checkpoints coming in; leave it out with --to")
        done = export(args.source, args.out, writer(args.to), WRITERS[args.to], args.force)
        print(f"{args.out}: {done.architecture}, features differ by {done.difference:.1e}")
        notes = done.notes
    else:
        parts = read(args)
        model = converted.assemble(parts)
        worst = converted.difference(parts, model)
        run = converted.write(parts, model, args.out)
        text = "with its text tower" if model.text else "without a text tower"
        print(f"{run.path}: {model.vision.arch}, {text}, features differ by {worst:.1e}")
        notes = parts.notes
    for note in notes:
        print(f"note: {note}")
    if args.push:
        print(push_to_hub(args.out, args.push, private=not args.public))
    return 0


def writer(kind: str) -> Writer:
    """What writes a run folder for another library."""
    from sparc_pretrain.convert.to_hf import to_hf
    from sparc_pretrain.convert.to_open_clip import to_open_clip
    from sparc_pretrain.convert.to_timm import to_timm

    return {"timm": to_timm, "hf": to_hf, "open_clip": to_open_clip}[kind]


def read(args: argparse.Namespace) -> Parts:
    """The source, through the library that made it."""
    from sparc_pretrain.convert.from_timm import load_timm
    from sparc_pretrain.convert.load_hf import load_hf
    from sparc_pretrain.convert.load_open_clip import load_open_clip

    source, path = args.source, Path(args.source)
    average = True if args.ema else False if args.raw else None
    if average is not None and (not path.is_file() or args.arch is None):
        raise ValueError("--ema and --raw choose among the weights of a file: give it and --arch")
    kind = args.kind or guess(source, args.arch)
    options = dict(setting(text) for text in args.set)
    if options and kind != "timm":
        raise ValueError("--set is for timm's models; open_clip takes --arch CONFIG.json")
    if path.is_file() and args.arch is None and kind != "open_clip":
        if path.name not in LOADED:
            raise ValueError(
                f"{source}: the library would load {' or '.join(LOADED)} of its folder, not this "
                "file; say what it is with --arch NAME"
            )
        source = str(path.parent)
    if kind == "timm":
        return load_timm(source, args.arch, options, average)
    if kind == "open_clip":
        return load_open_clip(source, args.arch, args.vision_only, average)
    return load_hf(source, args.vision_only)


def guess(source: str, arch: str | None) -> str:
    """The library that a source is for, from its files or its name.

    Raises:
        ValueError: it does not say.
    """
    import open_clip
    import timm

    from sparc_pretrain.convert.files import WEIGHT_FILES

    path = Path(source)
    if not path.exists() and (path.suffix in WEIGHT_FILES or source.startswith((".", "/", "~"))):
        raise FileNotFoundError(f"no file or folder {source}")
    if path.is_dir():
        if (path / "open_clip_config.json").exists():
            return "open_clip"
        return _of_config(path)
    if path.is_file():
        if arch is None and (path.parent / "config.json").exists():
            return _of_config(path.parent)
        if arch is None:
            raise ValueError(
                f"{source}: say what it is with --arch NAME (timm's or open_clip's), or put "
                "Hugging Face's config.json beside it"
            )
        if arch.endswith(".json") or arch.partition(":")[0] in open_clip.list_models():
            return "open_clip"
        near = cli.nearest(arch, [*open_clip.list_models(), *timm.list_models("vit_*")])
        if not timm.is_model(arch) and near:
            raise ValueError(f"neither timm nor open_clip has {arch!r}{near}")
        return "timm"
    if source.partition(":")[0] in open_clip.list_models():
        return "open_clip"
    if timm.is_model(source.partition(".")[0]):
        return "timm"
    if source.startswith("hf-hub:"):
        raise ValueError(f"{source}: say for which library with --kind open_clip or --kind timm")
    if source.count("/") == 1:
        return "hf"
    known = [*open_clip.list_models(), *timm.list_models("vit_*")]
    raise ValueError(
        f"{source!r} is no file, folder, or name that open_clip or timm knows"
        f"{cli.nearest(source, known)}; a Hugging Face name is USER/NAME"
    )


def setting(text: str) -> tuple[str, Any]:
    """``key=value`` -> (key, value), the value a Python literal or a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _of_config(folder: Path) -> str:
    from sparc_pretrain import run_folder
    from sparc_pretrain.json_file import read_object

    if (folder / run_folder.MANIFEST).exists():
        raise ValueError(f"{folder} is a run folder already; export it with --to timm|hf|open_clip")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds neither config.json nor open_clip_config.json")
    config = read_object(folder / "config.json")
    return "timm" if "architecture" in config and "model_type" not in config else "hf"


if __name__ == "__main__":
    cli.guard(main)
