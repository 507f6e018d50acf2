"""What a training step of X-VLM, UNITER, Oscar and Kaleido-BERT costs beside SPARC's, with the
towers of their configs, and which share of it is noise (`sparc_pretrain.chance`).

    python tools/measure/steps.py --batch 4 --repeats 3 --out docs/results/throughput.md

Random pictures and texts; forward, backward and the optimizer's step, in bfloat16; processor
seconds, in turn, so that a busy machine is busy for all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parent))  # also when this file is not what Python was given

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import AmpOptimWrapper

from sparc_pretrain import chance
from sparc_pretrain.command import cli
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.types import Batch, Concepts, Regions, Tags

VOCABULARY, FIRST = 32_000, 3
CONCEPTS, REGIONS, TAGS = 5, 36, 20
# row -> config, the task of a sampled step, boxes with texts of an image
ROWS = {
    "sparc": ("sparc", None, 0),
    "xvlm, captions": ("xvlm", None, 0),
    "xvlm, boxes": ("xvlm", None, 4),
    "uniter, itm": ("uniter", "itm", 0),
    "uniter, mlm": ("uniter", "mlm", 0),
    "uniter, mrfr": ("uniter", "mrfr", 0),
    "oscar": ("oscar", None, 0),
    "kaleido": ("kaleido", None, 0),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=30, help="of a caption")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="Markdown file whose section is written anew")
    return parser.parse_args(argv)


def texts(shape: tuple[int, ...], length: int) -> dict[str, torch.Tensor]:
    """ids, mask, special, word [...,length] of random texts, begin and end among them."""
    ids = torch.randint(FIRST, VOCABULARY, (*shape, length))
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[..., 0] = special[..., -1] = True
    word = torch.where(special, -1, torch.arange(length).expand_as(ids))
    return dict(ids=ids, mask=torch.ones_like(special), special=special, word=word)


def boxes(*shape: int) -> torch.Tensor:
    """Random boxes [...,4]."""
    return torch.rand(*shape, 2, 2).sort(dim=-2).values.flatten(-2)


def batch_of(size: int, tokens: int, pixels: int, concepts: int) -> Batch:
    """Random pairs with all that an objective may need; `concepts` boxes with short texts."""
    count, number = CONCEPTS + 1, torch.arange(size)
    said = texts((size, count), tokens if not concepts else max(8, tokens // 3))
    valid = (torch.arange(count) <= concepts).expand(size, count)
    said["mask"] = said["mask"] & valid[..., None]
    text_id = torch.arange(size * count).view(size, count)
    named = texts((size,), TAGS)
    there = torch.ones(size, REGIONS, dtype=torch.bool)
    return Batch(
        image=torch.randint(0, 256, (size, 3, pixels, pixels), dtype=torch.uint8),
        **texts((size,), tokens),
        key=[str(n) for n in range(size)],
        caption=[""] * size,
        draw=chance.mix(number),
        image_id=number,
        product_id=number,
        concepts=Concepts(boxes(size, count), **said, valid=valid, text_id=text_id),
        tags=Tags(named["ids"], named["mask"], named["word"], number),
        regions=Regions(boxes(size, REGIONS), there, there.long()),
        saliency=torch.tensor([0.1, 0.1, 0.9, 0.9]).expand(size, 4),
    )


@contextmanager
def timed(spent: list[float]) -> Iterator[None]:
    """Adds the seconds of every drawing of noise to `spent`."""
    kept = {name: getattr(chance, name) for name in ("uniform", "pairs", "member_keys")}

    def slower(drawn: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def draw(*args: object) -> torch.Tensor:
            began = time.process_time()
            found = drawn(*args)
            spent.append(time.process_time() - began)
            return found

        return draw

    for name, drawn in kept.items():
        setattr(chance, name, slower(drawn))
    try:
        yield
    finally:
        for name, drawn in kept.items():
            setattr(chance, name, drawn)


def step_of(row: str, args: argparse.Namespace) -> Callable[[], tuple[float, float]]:
    """A row's step: processor seconds of it, and of its noise."""
    name, task, concepts = ROWS[row]
    model = Config.fromfile(Path(__file__).parents[2] / "configs" / f"{name}.py").model.to_dict()
    model.pop("type")
    model["text"] |= dict(vocab_size=VOCABULARY, max_tokens=64)
    if name != "sparc":
        model["objective"] |= dict(mask_id=VOCABULARY - 1, word_ids=[FIRST, VOCABULARY - 1])
    if task:
        model["objective"]["tasks"] = {task: 1}
    made = Pretrainer(**model).train()
    pixels = made.encoder.vision.img_size
    batch = batch_of(args.batch, args.tokens, pixels, concepts)
    if name != "xvlm":
        batch.concepts = None
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-5)
    wrapper = AmpOptimWrapper(dtype="bfloat16", optimizer=optimizer)

    def once() -> tuple[float, float]:
        MessageHub.get_current_instance().update_info("iter", 0)
        spent: list[float] = []
        began = time.process_time()
        with timed(spent):
            made.train_step(batch, wrapper)
        return time.process_time() - began, sum(spent)

    return once


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the section."""
    import ratios

    args = parse(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, list[tuple[float, float]]] = {row: [] for row in args.rows}
    for row in args.rows:  # a model at a time fits; each repeat of SPARC stands beside its row
        beside, own = step_of("sparc", args), step_of(row, args)
        beside(), own()
        for repeat in range(args.repeats):
            base, step = beside()[0], own()
            found[row].append((step[0] / base, step[1] / step[0]))
            print(f"{row}, {repeat + 1} of {args.repeats}: {found[row][-1]}", flush=True)
    lines = ["| step | times SPARC's | noise, share of the step |", "|---|---|---|"]
    for row, pairs in found.items():
        ratio, noise = [p[0] for p in pairs], [p[1] for p in pairs]
        lines.append(
            f"| {row} | **{median(ratio):.2f}** ({min(ratio):.2f} to {max(ratio):.2f}) | "
            f"{median(noise):.2%} |"
        )
    text = "\n".join(lines)
    print(text)
    if args.out:
        about = (
            f"`python tools/measure/steps.py`: the towers of configs/*.py (ViT-B/16 at 224 px), "
            f"{args.batch} pairs with {args.tokens} tokens, bfloat16, one CPU thread, processor "
            f"seconds, torch {torch.__version__}."
        )
        ratios.put_section(
            Path(args.out), "A step of each system beside SPARC's", f"{about}\n\n{text}"
        )
    return 0


if __name__ == "__main__":
    cli.guard(main)
