"""A frozen backbone and a frozen language model, joined by what is trained here: a resampler and
gated cross-attention (Flamingo, arXiv 2204.14198; SPARC's third transfer, arXiv 2401.09865), or a
prefix (LLaVA, arXiv 2304.08485).

Shapes: B sequences, I images of each, P patches, L latents or prefix positions of an image, T
tokens, V vocabulary, E width of the language model, D width of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.registry import MODELS
from transfer.captioning.language_model.loading import LanguageIdentity, load_language_model
from transfer.captioning.model.bridges import build_bridge
from transfer.captioning.model.chunks import Chunks, Sequences
from transfer.captioning.model.extension import EndOfChunk, KnownIds, generation_config

FORMER = (
    "sparc.Captioner and its checkpoints are of an earlier version: train again with"
    " type='sparc.FlamingoCaptioner', bridge=dict(kind='mlp', grid=7)"
)


@MODELS.register_module()
class FlamingoCaptioner(BaseModel):
    """images -> backbone -> bridge -> language model that sees them -> captions.

    Args:
        backbone: config of a registered module that turns [B,3,H,W] into a tuple of maps [B,C,h,w]
            and has `out_channels`; the last map is read (SparcViT: `out_indices=(-2,)` for the
            penultimate layer). Never trained, stays in eval.
        language_model: see `load_language_model`.
        bridge: `dict(kind='cross_attention', latents=64, depth=6, every=4, ...)`,
            `dict(kind='resampler', ...)` or `dict(kind='mlp', grid=7)`, see `bridges`.
        tokenizer: tokenizer.json for a language model without one (`model_type`).
        prompt: put between image and caption, in training and after. max_tokens: longest caption.
        crops: n > 1 = the image is seen whole and as n x n crops, each at 1/n of its side (set the
            data's `size` to n times the backbone's).
        recompute: gradient checkpointing of language model and blocks.
        generation: arguments of transformers' `GenerationConfig` (num_beams, length_penalty,
            no_repeat_ngram_size, do_sample, ...), and `seed` for sampling.

    Raises:
        ValueError: an unknown option; a backbone without `out_channels`; a sequence longer than
            the language model's positions. FileNotFoundError: no such language model.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        language_model: dict[str, Any],
        bridge: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        prompt: str = "",
        max_tokens: int = 40,
        crops: int = 1,
        recompute: bool = False,
        generation: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if max_tokens < 2 or crops < 1:
            raise ValueError("max_tokens must be at least 2 and crops at least 1")
        self.language_options = dict(language_model)
        self.language_model, self.tokenizer, self.frozen_language_model = load_language_model(
            language_model, tokenizer
        )
        self.identity = LanguageIdentity(self.language_model, self.tokenizer)
        self.backbone = MODELS.build(backbone).requires_grad_(False)
        channels = getattr(self.backbone, "out_channels", None)
        if not isinstance(channels, int):
            raise ValueError(
                f"{type(self.backbone).__name__} has no out_channels (of its last map)"
            )
        head = self.language_model.get_output_embeddings()
        # what ends a chunk is at first what ends a text
        end_row = head.weight[self.tokenizer.eos_token_id].detach().float().clone()
        self.end_row = nn.Parameter(end_row)
        head.register_forward_hook(EndOfChunk(self.end_row, self.tokenizer.eos_token_id))
        frames = 1 if crops == 1 else 1 + crops**2
        self.bridge = build_bridge(bridge or {}, self.language_model, channels, frames, recompute)
        self.chunks = Chunks(
            self.tokenizer,
            self.language_model.get_input_embeddings().num_embeddings,
            prompt,
            max_tokens,
        )
        self.language_model.get_input_embeddings().register_forward_pre_hook(KnownIds(self.chunks))
        self.crops = crops
        words = self.tokenizer
        self.generation, self.seed = generation_config(
            generation or {},
            max_tokens,
            words.bos_token_id,
            # the language model's own end ends a caption too
            [self.chunks.end_id, words.eos_token_id],
            words.pad_token_id,
        )
        self.train()

    def init_weights(self) -> None:
        """The backbone takes its run folder's weights; the rest is as it was built."""
        if hasattr(self.backbone, "init_weights"):
            self.backbone.init_weights()
        self._is_init = True

    def train(self, mode: bool = True) -> FlamingoCaptioner:
        """Training mode; what is frozen stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        if self.frozen_language_model:
            self.language_model.eval()
        return self

    @property
    def needs_weights(self) -> bool:
        """Whether a checkpoint has to bring the language model's weights."""
        return "architecture" in self.language_options

    def leave_files(self, folder: Path, write: bool = True) -> dict[str, Any]:
        """Architecture and tokenizer of the language model, without weights, into
        `folder/language_model`; returns the model options that read them there.
        """
        place = Path(folder) / "language_model"
        if write:
            self.language_model.config.save_pretrained(place)
            self.tokenizer.save_pretrained(place)
        kept = {k: v for k, v in self.language_options.items() if k in ("dtype", "pad_token")}
        kept["frozen"] = self.frozen_language_model
        return {"language_model": {"architecture": str(place), **kept}, "tokenizer": None}

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if f"{prefix}projector.0.weight" in state:
            raise ValueError(FORMER)
        super()._load_from_state_dict(state, prefix, *rest)

    # ------------------------------------------------------------ images

    def media(self, images: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Images [B,3,H,W] or [B,I,3,H,W], normalised -> latents [B,I,L,D]."""
        images_BI3HW = images if images.dim() == 5 else images[:, None]
        frames = self.frames(images_BI3HW.flatten(0, 1))
        with torch.no_grad():
            maps = self.backbone(frames.flatten(0, 1))[-1]
        patches_NFPC = maps.flatten(2).mT.unflatten(0, frames.shape[:2])
        return self.bridge.latents(patches_NFPC, seen).unflatten(0, images_BI3HW.shape[:2])

    def frames(self, images_N3HW: Tensor) -> Tensor:
        """[N,F,3,h,w]: the image, or with crops the whole (made small) and its crops by rows."""
        if self.crops == 1:
            return images_N3HW[:, None]
        n, (height, width) = self.crops, images_N3HW.shape[-2:]
        if height % n or width % n:
            raise ValueError(f"images of {height} x {width} px cannot be cut into {n} x {n} crops")
        size = (height // n, width // n)
        whole = F.interpolate(images_N3HW, size, mode="bilinear", antialias=True)
        crops = images_N3HW.unflatten(3, (n, -1)).unflatten(2, (n, -1))  # [N,3,n,h,n,w]
        crops = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return torch.cat([whole[:, None], crops], dim=1)

    # ------------------------------------------------------------ words

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Ids [B,T], ours too, -> [B,T,E]."""
        return self.language_model.get_input_embeddings()(ids_BT)

    def logits(
        self,
        media_BILD: Tensor,
        rows: Sequences,
        keep: Tensor | None = None,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """[B,K,V+1] at the positions `keep` [K] (None = all): what follows each token; the last
        entry is end-of-chunk. Each inserted block adds its weights [B,T,I*L] to `seen`.
        """
        self._check_length(rows.ids.shape[1])
        embeds = self.embed(rows.ids)
        with self.bridge.joined(media_BILD, rows, embeds, self.chunks, seen) as embeds:
            # positions by hand: some models would count them from the mask
            positions = torch.arange(rows.ids.shape[1], device=embeds.device)
            return self.language_model(
                inputs_embeds=embeds,
                attention_mask=rows.mask.long(),
                position_ids=positions.expand(len(rows.ids), -1),
                use_cache=False,
                logits_to_keep=0 if keep is None else keep,
            ).logits

    def loss(self, images: Tensor, samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """`caption_loss`, cross-entropy per token, mean over words and ends of all captions of the
        batch (`-1/N sum log p(w_t | w_<t, image)`), and `token_accuracy`, 0 to 1.
        """
        media = self.media(images)
        captions = [[*sample.get("shots", []), sample.caption] for sample in samples]
        if any(len(texts) != media.shape[1] for texts in captions):
            raise ValueError(f"{media.shape[1]} images a sequence need as many captions")
        rows = self.chunks.training(
            captions, [s.get("prompt") for s in samples], self.bridge.positions(media)
        )
        rows = rows.to(images.device)
        target = rows.scored[:, 1:]
        keep = target.any(0).nonzero()[:, 0]
        logits_NV = self.logits(media, rows, keep)[target[:, keep]].float()
        target_N = rows.ids[:, 1:][target]
        return {
            "caption_loss": F.cross_entropy(logits_NV, target_N),
            "token_accuracy": (logits_NV.argmax(-1) == target_N).float().mean(),
        }

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
    ) -> dict[str, Tensor] | list[BaseDataElement] | Tensor:
        """inputs [B,3,H,W] or [B,I,3,H,W], normalised.

        Data samples have `caption` (in 'loss'), `shots` (captions of the first I - 1 images) and
        optionally `prompt`, a question in place of the model's prompt.
        'loss': see `loss`. 'predict': the data samples with `prediction`, the caption of the last
        image. 'tensor': the latents [B,I,L,D].
        """
        if mode == "tensor":
            return self.media(inputs)
        if data_samples is None or len(data_samples) != len(inputs):
            raise ValueError(
                f"mode {mode!r} needs one data sample for each of {len(inputs)} images"
            )
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode != "predict":
            raise ValueError(f"mode is 'loss', 'predict' or 'tensor', not {mode!r}")
        shots = [sample.get("shots", []) for sample in data_samples]
        prompts = [sample.get("prompt") for sample in data_samples]
        for sample, text in zip(data_samples, self.generate(inputs, shots, prompts), strict=True):
            sample.set_field(text, "prediction", dtype=str)
        return list(data_samples)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        shots: Sequence[Sequence[str]] | None = None,
        prompts: Sequence[str | None] | None = None,
    ) -> list[str]:
        """The caption of the last image of each sequence, after the `shots` of those before it.

        Deterministic; sampling too, which draws from `generation.seed`.
        """
        media = self.media(images)
        rows = self.chunks.prompts(
            shots or [[]] * len(images), prompts, self.bridge.positions(media)
        ).to(images.device)
        if (rows.index.amax(1) + 1 != media.shape[1]).any():
            raise ValueError(f"{media.shape[1]} images a sequence need one caption less as shots")
        self._check_length(rows.ids.shape[1] + self.generation.max_new_tokens)
        devices = [images.device] if images.is_cuda else []
        with (
            self.bridge.joined(media, rows, self.embed(rows.ids), self.chunks) as embeds,
            torch.random.fork_rng(devices),
        ):
            torch.manual_seed(self.seed)
            found = self.language_model.generate(
                inputs_embeds=embeds,
                attention_mask=rows.mask.long(),
                generation_config=self.generation,
            )
        return [self.chunks.decode(row) for row in found.tolist()]

    def _check_length(self, positions: int) -> None:
        config = self.language_model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and positions > limit:
            raise ValueError(
                f"images, shots and caption take {positions} positions, the language model has"
                f" {limit}: use fewer shots, a smaller max_tokens or fewer prefix positions"
            )
