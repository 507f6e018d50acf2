"""Terms of a loss as a task of tools/zeroshot.py."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sparc_pretrain.zeroshot.tasks.base import Task

if TYPE_CHECKING:
    from sparc_pretrain.dual_encoder import DualEncoder
    from sparc_pretrain.objectives.base import Objective
    from sparc_pretrain.zeroshot.outcome import Outcome


class Terms(Task):
    """What each term of X-VLM, UNITER, Oscar, Kaleido-BERT has learnt, beside its controls."""

    name, record, source = "terms", "terms", "shards"
    words = "each term of a loss, with the own image, another's and none"
    pictures = False

    def flags(self, parser: ArgumentParser) -> None:
        parser.add_argument("--shards", required=True, help="held-out tars with boxes")
        parser.add_argument("--words", help="file of the words that count when hidden, one a line")
        parser.add_argument("--visits", type=int, default=4, help="drawings of the pairs")
        parser.add_argument("--batch-size", type=int, default=64, help="of training")
        parser.add_argument(
            "--pictures",
            type=int,
            default=0,
            help="draw so many pairs: transport plan, 55 patches, hard negatives",
        )
        parser.add_argument(
            "--caption",
            choices=("any", "first", "longest"),
            default="any",
            help="of an image's: short ones may be true of the images they are held against",
        )
        for name, most in (("concepts", 5), ("regions", 36), ("tags", 20)):
            parser.add_argument(f"--{name}", type=int, default=most, help="at most, of a sample")

    def read(self, options: Namespace) -> Any:
        from pathlib import Path

        from sparc_pretrain.data.shards import expand

        if missing := [path for path in expand(options.shards) if not path.is_file()]:
            raise FileNotFoundError(f"{missing[0]} is missing")
        return Path(options.words).read_text("utf-8").split() if options.words else None

    def evaluate(
        self, model: DualEncoder, objective: Objective, data: Any, options: Namespace
    ) -> Outcome:
        from sparc_pretrain.zeroshot.terms.drawings import pictures
        from sparc_pretrain.zeroshot.terms.run import evaluate

        numbers = {name: getattr(options, name) for name in ("concepts", "regions", "tags")}
        how = (options.visits, options.batch_size)
        said = getattr(options, "caption", "any")
        found = evaluate(model, objective, options.shards, numbers, data, *how, said)
        if count := getattr(options, "pictures", 0):
            given = (model, objective, options.shards, numbers, count, options.batch_size)
            found.pictures.update(pictures(*given, said))
        return found
