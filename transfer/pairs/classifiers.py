"""Classifiers on the fused begin state of an image and a text, fine-tuned whole.

Suffixes: n texts, H width of texts and fusion, A answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain import json_file
from sparc_pretrain.registry import MODELS
from sparc_pretrain.types import ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot import encode
from transfer.captioning.vqa import normalise

AGREED = 3  # people who gave an answer, for it to be right (VQA, arXiv 1505.00468)


class PairClassifier(BaseModel):
    """A run's towers, fusion encoder and words, and a head on `images` fused begin states.

    Args:
        run: a run folder whose objective fuses (X-VLM, UNITER, Oscar, Kaleido-BERT). out: classes.
        images: read with each text. scratch: the run's architecture with random weights.

    Raises ValueError for a run whose objective has no fusion encoder.
    """

    def __init__(
        self, run: str | Path | None, out: int, images: int = 1, scratch: bool = False
    ) -> None:
        super().__init__()
        if run is None:
            raise ValueError(f"{type(self).__name__} starts from a run: give --backbone RUN")
        self.encoder, self.objective = encode.untrained(run) if scratch else encode.load(run)
        if self.objective.begin is None:
            raise ValueError(
                f"{run}: {type(self.objective).__name__} has no fusion encoder; X-VLM, UNITER, "
                "Oscar and Kaleido-BERT have one"
            )
        width = self.encoder.text.width
        self.images = images
        self.head = nn.Sequential(
            nn.Linear(images * width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, out),
        )

    def logits(self, inputs: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        """inputs: of each text [3,S,S] uint8, or [images,3,S,S] -> [n,out]."""
        pixels = torch.stack(list(inputs)).reshape(-1, *inputs[0].shape[-3:])
        image: ImageFeatures = self.objective.read_images(self.encoder, pixels)
        rows = torch.arange(len(texts), device=pixels.device).repeat_interleave(self.images)
        ids, mask, special = (x[rows] for x in self.encoder.tokenize(list(texts)))
        text: TextFeatures = self.encoder.text_features(ids, mask, special)
        begin = self.objective.begin(image, text)
        return self.head(begin.unflatten(0, (-1, self.images)).flatten(1))

    def forward(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
    ) -> dict[str, Tensor] | list[BaseDataElement]:
        """'loss': {name: scalar}. 'predict': the data samples with `prediction`.

        Raises ValueError for another mode: nothing can be said without a text.
        """
        if mode not in ("loss", "predict"):
            raise ValueError(f"{type(self).__name__} has the modes 'loss' and 'predict'")
        logits = self.logits(inputs, [sample.prompt for sample in data_samples]).float()
        if mode == "loss":
            return self.losses(logits, data_samples)
        for sample, row in zip(data_samples, logits.argmax(dim=1).tolist(), strict=True):
            sample.set_field(self.said(row), "prediction", dtype=str)
        return list(data_samples)

    def losses(self, logits: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Of logits [n,out]."""
        raise NotImplementedError

    def said(self, row: int) -> str:
        """A class as it is predicted."""
        raise NotImplementedError


@MODELS.register_module()
class VqaClassifier(PairClassifier):
    """Questions about images as a choice among answers (arXiv 1707.07998, sec. 3.4): soft targets
    min(1, people who said it / 3), binary cross-entropy, summed over answers.

    Args: answers: annotations of the VQA format, of which those given to at least `least` questions
        are the classes; or the list of them. run, scratch: see `PairClassifier`.
    """

    def __init__(
        self,
        run: str | Path | None,
        answers: str | Path | Sequence[str],
        least: int = 1,
        scratch: bool = False,
    ) -> None:
        known = answers_of(answers, least) if isinstance(answers, str | Path) else list(answers)
        super().__init__(run, len(known), scratch=scratch)
        self.answers = known
        self.row = {answer: row for row, answer in enumerate(known)}

    def targets(self, data_samples: Sequence[BaseDataElement]) -> Tensor:
        """[n,A]; with fewer than three people all have to agree."""
        found = torch.zeros(len(data_samples), len(self.answers))
        for n, sample in enumerate(data_samples):
            people = sample.references
            for answer, count in Counter(map(normalise, people)).items():
                if answer in self.row:
                    found[n, self.row[answer]] = min(1.0, count / min(AGREED, len(people)))
        return found

    def losses(self, logits: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        wanted = self.targets(data_samples).to(logits.device)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(logits)
        right = wanted.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
        return {"vqa_loss": loss, "vqa_accuracy": right}

    def said(self, row: int) -> str:
        return self.answers[row]


def answers_of(file: str | Path, least: int) -> list[str]:
    """The commonest answers of the annotations of a VQA file, normalised, each the commonest one of
    at least `least` questions, the most frequent first.

    Raises FileNotFoundError; ValueError for another format, or no answer that is frequent enough.
    """
    try:
        rows = json_file.read(file)["annotations"]
        said = [[normalise(answer["answer"]) for answer in row["answers"]] for row in rows]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not in the VQA format: {error!r}") from None
    count = Counter(Counter(filter(None, one)).most_common(1)[0][0] for one in said if any(one))
    found = [
        answer for answer, n in sorted(count.items(), key=lambda p: (-p[1], p[0])) if n >= least
    ]
    if not found:
        raise ValueError(f"{file}: no answer is that of {least} questions")
    return found


@MODELS.register_module()
class NlvrClassifier(PairClassifier):
    """Whether a statement is true of two images (NLVR2, arXiv 1811.00491): the text is fused with
    each by the same weights, and both begin states are judged together (UNITER, arXiv 1909.11740,
    "pair"). Args: see `PairClassifier`.
    """

    def __init__(self, run: str | Path | None, scratch: bool = False) -> None:
        super().__init__(run, 2, images=2, scratch=scratch)

    def losses(self, logits: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        truth = torch.tensor([int(sample.label) for sample in data_samples], device=logits.device)
        right = (logits.argmax(dim=1) == truth).float().mean()
        return {"nlvr_loss": F.cross_entropy(logits, truth), "nlvr_accuracy": right}

    def said(self, row: int) -> str:
        return str(bool(row))
