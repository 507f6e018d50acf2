"""A run's own words and fusion encoder as a captioner: the head that it learnt on hidden words
writes, word by word.

Suffixes: B images, T tokens, H width of texts and fusion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from sparc_pretrain.command.cli import nearest
from sparc_pretrain.data.tokenizer import pad_rows
from sparc_pretrain.registry import MODELS, parameters_of
from sparc_pretrain.types import ImageFeatures
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.given_boxes import as_regions
from transfer.captioning.model.extension import generation_config
from transfer.captioning.model.flamingo import FORMER, FlamingoCaptioner


@MODELS.register_module()
class FusionCaptioner(BaseModel):
    """image -> a run's tower -> its fusion encoder, causal over words -> its head of hidden words.

    X-VLM is its own decoder: words look at the patches. UNITER, Oscar and Kaleido-BERT take the
    mask of sequence to sequence: words see regions or patches and the words before them, an image's
    tokens no word. Regions are 4 x 4 cells, or the boxes of `CaptionDataset`, whose class names are
    Oscar's tags, which see no word either. The state of a word says the next one, as X-VLM is
    fine-tuned (Oscar's released code guesses a mask token put in its place). All is trained.

    Args:
        run: a run folder of one of the four. bridge: `dict(kind='fusion')`.
        prompt: words that all captions begin with; they are neither scored nor in what is written.
        max_tokens: longest caption in tokens, its end among them; None = what the run's text tower
            has places for.
        generation: see `FlamingoCaptioner`. scratch: the run's architecture with random weights.

    Raises ValueError: a run without a fusion encoder, without a trained head of words, or trained
        on region vectors from files; an unknown option; more tokens than the text tower has places.
    """

    def __init__(
        self,
        run: str | Path | None,
        bridge: dict[str, Any] | None = None,
        prompt: str = "",
        max_tokens: int | None = None,
        generation: dict[str, Any] | None = None,
        scratch: bool = False,
    ) -> None:
        super().__init__()
        if run is None:
            raise ValueError("bridge.kind='fusion' starts from a run: give --backbone RUN")
        if (bridge or {"kind": "fusion"}) != {"kind": "fusion"}:
            raise ValueError(f"bridge={bridge}: it takes no options, it is dict(kind='fusion')")
        self.encoder, self.objective = encode.untrained(run) if scratch else encode.load(run)
        if why := self._lacks(scratch):
            raise ValueError(f"{run}: {type(self.objective).__name__} {why}")
        words, places = self.encoder.tokenizer, self.encoder.text.max_tokens
        self.start = words.encode(prompt, places).ids[:-1]  # begin and prompt
        room = places + 1 - len(self.start)  # the last token is written, not read
        self.max_tokens = room if max_tokens is None else max_tokens
        if not 2 <= self.max_tokens <= room:
            raise ValueError(
                f"max_tokens={max_tokens}: a caption has at least 2, and the text tower of {run} "
                f"places for {room} after the prompt"
            )
        self.generation, self.seed = generation_config(
            {"suppress_tokens": self._never_written(), **(generation or {}), "use_cache": False},
            self.max_tokens,
            words.bos_id,
            [words.eos_id],
            words.pad_id,
        )

    def _lacks(self, scratch: bool) -> str | None:
        """Why the run cannot write."""
        objective = self.objective
        if objective.writer is None:
            return "has no fusion encoder; X-VLM, UNITER, Oscar and Kaleido-BERT have one"
        if not objective.vision_trained:
            return "was trained on region vectors from files and cannot read pictures"
        if not (scratch or objective.words_trained):
            return "did not train its head of hidden words: give the run that it started from"
        return None

    def _never_written(self) -> list[int]:
        words = self.encoder.tokenizer
        return sorted({words.bos_id, words.mask_id} - {None, words.eos_id})

    def rows(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Begin, prompt, caption and end -> ids [B,T] long, which are real, and which are to be
        said. A caption that is cut does not end there.
        """
        encoded = [
            self.encoder.tokenizer.encode(text, self.max_tokens + 2).ids[1 : self.max_tokens + 1]
            for text in captions
        ]
        ids = pad_rows([[*self.start, *one] for one in encoded], self.encoder.tokenizer.pad_id)
        length = torch.tensor([len(self.start) + len(one) for one in encoded])
        place = torch.arange(ids.shape[1])
        real = place < length[:, None]
        said = real & (place >= len(self.start))
        return tuple(x.to(self.encoder.mean.device) for x in (ids, real, said))

    def images(
        self, inputs: Sequence[Tensor], samples: Sequence[BaseDataElement] = ()
    ) -> ImageFeatures:
        """Images [3,S,S] uint8 as the run reads them, with the boxes that all samples have."""
        image = self.objective.read_images(self.encoder, torch.stack(list(inputs)))
        boxes = [sample.get("regions") for sample in samples]
        if boxes and all(box is not None for box in boxes):
            regions = as_regions(boxes, [sample.names for sample in samples], self.encoder)
            image.regions = regions.to(self.encoder.mean.device)
        return image

    def states(self, write: Any, ids: Tensor, real: Tensor, owner: Tensor) -> Tensor:
        """Fused states [B,T,H] of texts from left to right; write: `Objective.writer` of images;
        owner: [B] long, the image of each text.
        """
        return write(self.encoder.text(ids, real, causal=True), real, owner)

    def logits(self, states: Tensor) -> Tensor:
        """Fused states [M,H] -> what comes next [M,V]."""
        return self.objective.word_logits(states, self.encoder.text.word_table).float()

    def loss(
        self, inputs: Sequence[Tensor], samples: Sequence[BaseDataElement]
    ) -> dict[str, Tensor]:
        """`caption_loss`, cross-entropy per token, mean over words and ends of the batch, and
        `token_accuracy`, 0 to 1.
        """
        ids, real, said = self.rows([sample.caption for sample in samples])
        write = self.objective.writer(self.images(inputs, samples))
        owner = torch.arange(len(ids), device=ids.device)
        states = self.states(write, ids[:, :-1], real[:, :-1], owner)
        logits, target = self.logits(states[said[:, 1:]]), ids[:, 1:][said[:, 1:]]
        return {
            "caption_loss": F.cross_entropy(logits, target),
            "token_accuracy": (logits.argmax(-1) == target).float().mean(),
        }

    def forward(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
    ) -> dict[str, Tensor] | list[BaseDataElement]:
        """inputs: [3,S,S] uint8 each. 'loss': see `loss`; data samples have `caption`. 'predict':
        the data samples with `prediction`.

        Raises ValueError for another mode.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode != "predict":
            raise ValueError(f"{type(self).__name__} has the modes 'loss' and 'predict'")
        for sample, text in zip(data_samples, self.generate(inputs, data_samples), strict=True):
            sample.set_field(text, "prediction", dtype=str)
        return list(data_samples)

    @torch.no_grad()
    def generate(
        self, inputs: Sequence[Tensor], samples: Sequence[BaseDataElement] = ()
    ) -> list[str]:
        """The captions of images [3,S,S] uint8, see `images`. Deterministic; sampling too, which
        draws from `generation.seed`.
        """
        words, write = self.encoder.tokenizer, self.objective.writer(self.images(inputs, samples))
        device = self.encoder.mean.device
        start = torch.tensor([self.start], device=device).expand(len(inputs), -1)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            found = _Words(self, write, words.vocab_size).generate(
                input_ids=start,
                owner=torch.arange(len(inputs), device=device),
                generation_config=self.generation,
            )
        written = found[:, len(self.start) :].tolist()
        return [words.decode(_until(row, words.eos_id)) for row in written]


class _Words(PreTrainedModel, GenerationMixin):
    """What transformers' search asks: the next word of each of its texts."""

    def __init__(self, captioner: FusionCaptioner, write: Any, vocabulary: int) -> None:
        super().__init__(PreTrainedConfig(vocab_size=vocabulary))
        self.asked = (captioner, write)  # in a tuple: no part of this module

    @property
    def device(self) -> torch.device:
        """The captioner's."""
        return self.asked[0].encoder.mean.device

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, owner: Tensor, **_: Any
    ) -> dict[str, Tensor]:
        """The whole text each time: nothing is kept between words."""
        return {"input_ids": input_ids, "owner": owner}

    def forward(self, input_ids: Tensor, owner: Tensor, **_: Any) -> CausalLMOutput:
        """input_ids [n,T] of images `owner` [n] -> logits [n,1,V]."""
        captioner, write = self.asked
        real = torch.ones_like(input_ids, dtype=torch.bool)
        states = captioner.states(write, input_ids, real, owner)
        return CausalLMOutput(logits=captioner.logits(states[:, -1:]))


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


@MODELS.register_module("Captioner")
def captioner(**config: Any) -> FusionCaptioner | FlamingoCaptioner:
    """The captioner of `bridge.kind`: 'fusion' = `FusionCaptioner`, else `FlamingoCaptioner`.

    Raises ValueError for an argument that it does not take, and for a config of an earlier version,
    which has no bridge.
    """
    bridge = config.get("bridge")
    if not isinstance(bridge, dict):
        raise ValueError(FORMER)
    kind = FusionCaptioner if bridge.get("kind") == "fusion" else FlamingoCaptioner
    known = parameters_of(kind)[0]
    for key in config:
        if key not in known:
            what = f"sparc.{kind.__name__} takes no argument {key!r}"
            raise ValueError(f"{what}{nearest(key, known)}")
    return kind(**config)
