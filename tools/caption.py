"""Caption any photo; --explain shows where each word looked.

python tools/caption.py work_dirs/caption_flamingo photo.jpg --explain --out-dir out
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from mmengine.config import Config
    from PIL import Image
    from torch import Tensor, nn


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    parser.add_argument("captioner", help="work dir of tools/train.py, or a checkpoint in it")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--explain", action="store_true", help="draw where each word looked")
    parser.add_argument("--out-dir", help="captions.json and the pictures go there")
    parser.add_argument("--config", help="config file, where the work dir has several")
    parser.add_argument("--batch-size", type=int, default=16)
    flags.cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print `FILE<tab>CAPTION` for every image."""
    args = parse(argv)
    for name in args.images:
        if Path(name).is_dir():
            raise IsADirectoryError(f"{name} is a folder: give its images, such as {name}/*.jpg")
        if not Path(name).is_file():
            raise FileNotFoundError(f"no file {name}")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
    if args.explain and not args.out_dir:
        raise ValueError("--explain draws pictures: say where with --out-dir")
    if args.out_dir and (Path(args.out_dir) / "metrics.json").exists():
        raise FileExistsError(
            f"{args.out_dir} holds an evaluation and its captions: choose another --out-dir"
        )
    from transfer.captioning.model import word_attention  # first: it mends mmcv

    import torch  # isort: skip

    cfg, weights = find(args.captioner, args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    model = build(cfg, weights)
    out = cli.writable(args.out_dir) if args.out_dir else None
    for name in args.images:
        read(name, cfg)  # all of them, before captions are made and lost
    rows = []
    for start in range(0, len(args.images), args.batch_size):
        names = args.images[start : start + args.batch_size]
        pixels = torch.stack([read(name, cfg) for name in names])
        pixels = model.data_preprocessor({"inputs": list(pixels)})["inputs"]
        captions = model.generate(pixels)
        for name, caption, image in zip(names, captions, pixels, strict=True):
            print(f"{name}\t{caption}")
            rows.append({"image": name, "caption": caption})
            if args.explain:
                found = word_attention.explain(model, image, caption)
                sheet = word_attention.draw(shown(name, cfg), found)
                path = out / f"{len(rows) - 1:03d}-{Path(name).stem}.png"
                sheet.save(path)
                rows[-1] |= {"picture": path.name, "words": found.words}
    if out is not None:
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        (out / "captions.json").write_text(text, encoding="utf-8")
    return 0


def find(captioner: str, config: str | None) -> tuple[Config, Path]:
    """The config and the checkpoint that a work dir or a checkpoint's path means."""
    from sparc_pretrain.engine import checkpoint
    from transfer.run import recipe

    path = Path(captioner)
    if not path.exists():
        raise FileNotFoundError(f"no work dir or checkpoint {path}")
    weights = checkpoint.find_valid(path) if path.is_dir() else path
    if weights is None:
        raise FileNotFoundError(f"{path} has no whole checkpoint: train with tools/train.py")
    configs = [Path(config)] if config else sorted(Path(weights).parent.glob("*.py"))
    if len(configs) != 1:
        raise ValueError(f"{len(configs)} configs beside {weights}: choose one with --config")
    cfg = cli.read_config(configs[0])
    if cfg.get("task") != "captioning":
        raise ValueError(f"{configs[0]} is not of a captioner")
    recipe.follow_move(cfg, configs[0])
    return cfg, Path(weights)


def build(cfg: Config, weights: Path) -> nn.Module:
    """The captioner with the checkpoint's weights."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from sparc_pretrain.engine import checkpoint

    init_default_scope(cfg.get("default_scope", "mmengine"))
    model = MODELS.build(cfg.model)
    try:
        model.load_state_dict(checkpoint.weights(weights))
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit its config: {error}") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def read(name: str, cfg: Config) -> Tensor:
    """[3,S,S] uint8, as in the test set of the config."""
    from sparc_pretrain.data.images import BadImage, decode, eval_resize

    dataset = cfg.test_dataloader.dataset
    try:
        image = decode(Path(name).read_bytes())
    except BadImage as error:
        raise ValueError(f"{name}: {error}") from None
    return eval_resize(image, dataset.get("size", 224), dataset.get("how", "squash"))


def shown(name: str, cfg: Config) -> Image.Image:
    """The part of the photo that the captioner saw, upright and in its own proportions."""
    from PIL import Image

    from sparc_pretrain.data.images import decode, eval_resize

    image = decode(Path(name).read_bytes())
    if cfg.test_dataloader.dataset.get("how", "squash") == "crop":
        image = eval_resize(image, min(image.shape[-2:]), "crop")
    return Image.fromarray(image.permute(1, 2, 0).numpy())


if __name__ == "__main__":
    cli.guard(main)
