"""What one asks a run folder with a photo and words in hand: words on patches, boxes of words, the
images of a folder that fit a text. `sparc align` and `sparc demo` show the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain.data.sets.phrases import Phrase
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.page import viewer
from sparc_pretrain.report.samples import backbone_facts
from sparc_pretrain.run_folder import RunFolder, open_run
from sparc_pretrain.types import ImageFeatures
from sparc_pretrain.zeroshot import box_reading, encode, grounding, readings
from sparc_pretrain.zeroshot.grounding_run import heats_of
from sparc_pretrain.zeroshot.readings import Reading

HEAT = "phrase_local"  # the reading that grounding's headline is of
MOST = 5_000  # images of a folder that are held encoded


@dataclass
class Answers:
    """A run folder's model, and the photos that it may compare with: `files`, encoded when the
    first text asks for them.
    """

    run: RunFolder
    model: DualEncoder
    objective: Objective
    files: Sequence[Path] = ()
    _encoded: list[ImageFeatures] = field(default_factory=list)

    @classmethod
    def of(cls, run: str | Path, files: Sequence[Path] = ()) -> Answers:
        """Of a run folder, by path or by the name of one that ships; on the GPU if there is one.

        Raises as `open_run` and `encode.load`; ValueError for more than MOST files.
        """
        if len(files) > MOST:
            raise ValueError(f"{len(files)} images: {MOST} are held at most")
        opened = open_run(run)
        model, objective = encode.load(opened.path)
        if torch.cuda.is_available():
            model, objective = model.cuda(), objective.cuda()
        return cls(opened, model, objective, files)

    @property
    def measured(self) -> str:
        """How often this model's words point right, beside chance, or that nobody measured it."""
        return viewer.told(readings.measured(self.run))

    @property
    def about(self) -> str:
        """The model in a line: name, objective, tower, pairs seen."""
        facts = backbone_facts(self.run)
        seen = f", {facts['seen']:,} pairs seen" if facts["seen"] is not None else ""
        return f"{self.run.name}: {facts['objective']}, {facts['arch']}{seen}"

    def words(
        self, image: Tensor, others: Sequence[Tensor], names: Sequence[str], caption: str
    ) -> tuple[list[Reading], str]:
        """The readings of a caption over its image and over others, and the page to touch.

        Args: image, others: [3,H,W] uint8; names: of all of them, the image's first.

        Raises ValueError for a caption without words.
        """
        found = readings.read(self.model, self.objective, image, others, caption)
        part = viewer.fragment(caption, image, others, found, names)
        return found, viewer.page(part, self.about, self.measured)

    @torch.inference_mode()
    def boxes(self, image: Tensor, words: str) -> list[tuple[str, list[float] | None]]:
        """Each of `words`, texts with commas between, with the box that the model draws for it in
        image [3,H,W] uint8: x0 y0 x1 y1 in pixels, None where no patch stands out.

        A model that predicts boxes says them; of others it is the box round the hottest patches of
        the text's embedding.

        Raises ValueError where no text is given, or for a model that does neither.
        """
        texts = [text for part in words.split(",") if (text := part.strip())]
        if not texts:
            raise ValueError("no words to find: type some, with commas between")
        size = tuple(image.shape[-2:])
        if self.objective.ground is not None:
            drawn = box_reading.predicted(self.model, self.objective, image, texts)
            return list(zip(texts, (box.tolist() for box in drawn), strict=True))
        nothing = torch.zeros(0, 4)
        asked = [Phrase(text, 0, len(text), nothing, [], ()) for text in texts]
        heats = heats_of(self.model, image, asked, objective=self.objective)[HEAT]
        drawn = [None if heat is None else grounding.peak_box(heat[0], size) for heat in heats]
        return [
            (text, None if box is None else box.tolist())
            for text, box in zip(texts, drawn, strict=True)
        ]

    @torch.inference_mode()
    def images(self, text: str, count: int = 8) -> list[tuple[Path, float]]:
        """The `files` that fit `text` best, with their scores, the best first.

        Raises ValueError without text or files, or for a model without vectors to compare.
        """
        if not self.objective.shares_space:
            raise ValueError(
                f"{type(self.objective).__name__} reads a picture and a text in one stream: it has "
                "no vectors by which to look among many"
            )
        if not text.strip():
            raise ValueError("no text to look for")
        if not self.files:
            raise ValueError("no images to look among: start it with --images DIR")
        reads = encode.reads_of([self.objective])
        if not self._encoded:
            how = {"objective": self.objective}
            self._encoded = list(encode.encode_images(self.model, self.files, reads, **how))
        [asked] = encode.encode_texts(self.model, [text], reads)
        scores = torch.cat(
            [self.objective.scores(part, asked)[:, 0].float().cpu() for part in self._encoded]
        )
        best = scores.topk(min(count, len(self.files)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.files[row], score) for row, score in pairs]
