"""Train a small causal language model on text: what a captioner freezes where no pretrained one can
be had. Writes a folder that transformers reads (weights, config, tokenizer).

python tools/pretrain_lm.py data/flickr30k_text/captions.tsv.gz --out work_dirs/lm --max-minutes 10
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path

from sparc_pretrain.command import cli, flags

# what a family calls width, depth and heads
FAMILIES = {
    "gpt2": ("n_embd", "n_layer", "n_head", "n_positions"),
    "llama": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    parser.add_argument("text", nargs="+", help="a sentence per line (.txt), .tsv, or captions")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="FILE", help="leave out the sentences of these"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--max-minutes", type=float, help="stop after this time, if before --steps")
    parser.add_argument("--vocab", type=int, default=4000, help="size of the BPE to train")
    parser.add_argument("--family", choices=FAMILIES, default="gpt2")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=512, help="longest sequence it can read")
    parser.add_argument("--block", type=int, default=128, help="tokens of a training sequence")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    flags.amp(parser)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one"
    )
    parser.add_argument("--resume", action="store_true", help="go on where a killed run was")
    parser.add_argument("--overwrite", action="store_true", help="replace an older folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Read, train, write."""
    args = parse(argv)
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise FileExistsError(f"{out} exists already; choose another folder or pass --overwrite")
    sizes = (args.steps, args.batch, args.layers, args.heads, args.block - 1)
    if min(sizes) < 1 or args.block > args.positions:
        raise ValueError("steps, batch, layers and heads are at least 1, block from 2 to positions")
    if args.max_minutes is not None and args.max_minutes <= 0:
        raise ValueError(f"--max-minutes must be above 0, not {args.max_minutes}")
    import torch

    from sparc_pretrain.data.tokenizer import Tokenizer
    from transfer.captioning.language_model import sentences
    from transfer.captioning.language_model.training import Plan, train, write_folder

    gpu = torch.cuda.is_available()
    if args.device == "cuda" and not gpu:
        raise ValueError("--device cuda: torch sees no GPU; tools/doctor.py says why")
    device = args.device or ("cuda" if gpu else "cpu")
    if args.width % args.heads:
        raise ValueError(f"--width {args.width} is not a multiple of --heads {args.heads}")
    groups = sentences.read_groups(args.text)
    kept = sentences.without(groups, sentences.read_groups(args.exclude))
    count = sum(map(len, kept))
    say(f"{count:,} sentences, {sum(map(len, groups)) - count:,} left out as held out")
    training, held = sentences.split(kept, 0.01, args.seed)
    tokenizer = Tokenizer.train(training, args.vocab)
    blocks = sentences.pack(training, tokenizer, args.block)
    say(f"{blocks.numel():,} tokens of {tokenizer.vocab_size} kinds")
    names = FAMILIES[args.family]
    sizes = (args.width, args.layers, args.heads, args.positions)
    plan = Plan(
        model={"model_type": args.family, **dict(zip(names, sizes, strict=True)), **_more(args)},
        steps=args.steps,
        minutes=args.max_minutes or math.inf,
        batch=args.batch,
        block=args.block,
        lr=args.lr,
        warmup=min(100, args.steps // 10 + 1),
        seed=args.seed,
        amp=args.amp,
    )
    cli.writable(out.parent)
    folder = out.with_name(f"{out.name}.training")
    held_blocks = sentences.pack(held, tokenizer, args.block)
    model, record = train(
        plan, tokenizer, blocks, held_blocks, folder, say, args.resume, device=device
    )
    record |= dict(text=[str(name) for name in args.text], sentences=count, seed=args.seed)
    write_folder(out, model, tokenizer, record)
    shutil.rmtree(folder)
    say(f"{out}: perplexity {record['perplexity']} on {len(held):,} held-out sentences")
    return 0


def _more(args: argparse.Namespace) -> dict:
    """What the family needs beside its sizes."""
    if args.family == "gpt2":
        return {}
    return {"intermediate_size": 4 * args.width, "tie_word_embeddings": True}


def say(line: str) -> None:
    """A line of progress, at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    cli.guard(main)
