"""A captioner: the frozen backbone's patches as a prefix of a causal language model that is trained
with it from random weights (as LLaVA, arXiv 2304.08485, and ClipCap, arXiv 2111.09734, do it).

Language models that bring weights and a tokenizer of their own are `flamingo`'s, also behind such a
prefix (`bridge=dict(kind='mlp')`).
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

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.registry import MODELS
from transfer.captioning.language_model.loading import load_language_model


@MODELS.register_module()
class Captioner(BaseModel):
    """image -> patches -> projector -> prefix; then begin, words, end, as a language model has it.

    Shapes: B images, P prefix positions, T tokens of the longest caption, V vocabulary, E width of
    the language model.

    Args:
        backbone: config of a registered module that turns [B,3,H,W] into a tuple of maps [B,C,h,w]
            and has `out_channels`; the last map is read. It is never trained, and stays in eval.
        language_model: an architecture, `dict(model_type='gpt2', n_layer=4, n_embd=256, n_head=4)`.
        tokenizer: tokenizer.json, e.g. that of the run folder.
        max_tokens: the longest caption in tokens, begin and end included, in training and after.
        grid: patches are averaged to at most grid x grid prefix positions; None = all of them.
        num_beams: 1 = greedy. generation: more arguments of `transformers`' `generate`.
        data_preprocessor: `dict(type='ImgDataPreprocessor', mean=..., std=...)` in units of 0..255.

    A checkpoint holds all weights; with the config and the tokenizer that `CaptionerFilesHook`
    leaves in the work dir it is tested alone.

    Raises:
        ValueError: a backbone without `out_channels`, no tokenizer, a language model with weights
            of its own, an option that it does not have, fewer entries in its vocabulary than the
            tokenizer has, prefix and caption longer than its positions. FileNotFoundError: no such
            tokenizer.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        language_model: dict[str, Any],
        tokenizer: str | None,
        max_tokens: int = 40,
        grid: int | None = 7,
        num_beams: int = 1,
        generation: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if max_tokens < 3 or num_beams < 1 or (grid is not None and grid < 1):
            raise ValueError("max_tokens must be at least 3, num_beams and grid at least 1")
        if "model_type" not in language_model or language_model.get("frozen"):
            raise ValueError(
                "sparc.Captioner trains a language model of its own: language_model needs"
                " model_type; for pretrained weights take sparc.FlamingoCaptioner with"
                " bridge=dict(kind='mlp')"
            )
        if tokenizer is None:
            raise ValueError(
                "a captioner without tokenizer: give --backbone RUN, or tokenizer=FILE"
            )
        self.tokenizer = Tokenizer.load(tokenizer)
        self.backbone = MODELS.build(backbone)
        self.backbone.requires_grad_(False)
        channels = getattr(self.backbone, "out_channels", None)
        if not isinstance(channels, int):
            raise ValueError(
                f"{type(self.backbone).__name__} has no out_channels (of its last map)"
            )
        self.language_model, _, _ = load_language_model(language_model, tokenizer)
        width = self.language_model.get_input_embeddings().embedding_dim
        self.projector = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        self.max_tokens, self.grid, self.num_beams = max_tokens, grid, num_beams
        self.generation = dict(generation or {})
        self.train()

    def init_weights(self) -> None:
        """The backbone takes its run folder's weights; the rest is as it was built.

        Not mmengine's walk over all children: it would call the language model's own
        `init_weights`.
        """
        if hasattr(self.backbone, "init_weights"):
            self.backbone.init_weights()
        self._is_init = True

    def train(self, mode: bool = True) -> Captioner:
        """Training mode; what is frozen stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def leave_files(self, folder: Path, write: bool = True) -> dict[str, Any]:
        """tokenizer.json into `folder`; returns the model options that build the same architecture
        from there."""
        options = self.language_model.config.to_diff_dict()
        for key in ("transformers_version", "architectures", "dtype", "_name_or_path"):
            options.pop(key, None)
        options["model_type"] = self.language_model.config.model_type
        path = Path(folder) / "tokenizer.json"
        if write:
            self.tokenizer.save(path.parent)
        return {"tokenizer": str(path), "language_model": options}

    def prefix(self, image_BCHW: Tensor) -> Tensor:
        """Images [B,3,H,W], normalised -> [B,P,E], what the language model reads before words."""
        with torch.no_grad():
            map_BChw = self.backbone(image_BCHW)[-1]
        if self.grid is not None:
            size = [min(self.grid, side) for side in map_BChw.shape[-2:]]
            map_BChw = F.adaptive_avg_pool2d(map_BChw, size)
        return self.projector(map_BChw.flatten(2).mT)

    def logits(self, image_BCHW: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B,T,V]: position t says what follows the tokens up to and with t, given the image."""
        prefix_BPE = self.prefix(image_BCHW)
        words_BTE = self.language_model.get_input_embeddings()(ids_BT)
        self._check_length(prefix_BPE.shape[1] + ids_BT.shape[1])
        seen = torch.cat([mask_BT.new_ones(prefix_BPE.shape[:2]), mask_BT], dim=1)
        # positions by hand: some models would count them from the mask
        positions = torch.arange(seen.shape[1], device=seen.device).expand(len(seen), -1)
        out = self.language_model(
            inputs_embeds=torch.cat([prefix_BPE.to(words_BTE.dtype), words_BTE], dim=1),
            attention_mask=seen.long(),
            position_ids=positions,
            use_cache=False,
            logits_to_keep=ids_BT.shape[1],  # those of the prefix are never made
        )
        return out.logits

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
    ) -> dict[str, Tensor] | list[BaseDataElement] | Tensor:
        """inputs [B,3,H,W], normalised.

        'loss': data samples with a `caption` -> `caption_loss`, cross-entropy per token (natural
        logarithm, mean over the words and ends of the batch; neither the prefix nor begin is
        predicted), and `token_accuracy`, from 0 to 1.
        'predict': the data samples with `prediction`, a string. 'tensor': the prefix [B,P,E].
        """
        if mode == "tensor":
            return self.prefix(inputs)
        if data_samples is None or len(data_samples) != len(inputs):
            raise ValueError(
                f"mode {mode!r} needs one data sample for each of {len(inputs)} images"
            )
        if mode == "predict":
            for sample, caption in zip(data_samples, self.generate(inputs), strict=True):
                sample.set_field(caption, "prediction", dtype=str)
            return list(data_samples)
        if mode != "loss":
            raise ValueError(f"mode is 'loss', 'predict' or 'tensor', not {mode!r}")
        captions = [sample.caption for sample in data_samples]
        ids, mask, _ = (
            part.to(inputs.device) for part in self.tokenizer.batch(captions, self.max_tokens)
        )
        return caption_loss(self.logits(inputs, ids, mask), ids, mask)

    @torch.no_grad()
    def generate(self, image_BCHW: Tensor) -> list[str]:
        """One caption per image, greedy or by beam search; deterministic."""
        prefix_BPE = self.prefix(image_BCHW)
        begin = torch.full((len(prefix_BPE), 1), self.tokenizer.bos_id, device=prefix_BPE.device)
        begin_B1E = self.language_model.get_input_embeddings()(begin)
        embeds = torch.cat([prefix_BPE.to(begin_B1E.dtype), begin_B1E], dim=1)
        self._check_length(embeds.shape[1] + self.max_tokens - 1)
        ids = self.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            max_new_tokens=self.max_tokens - 1,  # begin is given, end is not
            **{
                "num_beams": self.num_beams,
                "do_sample": False,
                "bos_token_id": self.tokenizer.bos_id,
                "eos_token_id": self.tokenizer.eos_id,
                "pad_token_id": self.tokenizer.pad_id,
                **self.generation,
            },
        )
        return [self.tokenizer.decode(_until(row, self.tokenizer.eos_id)) for row in ids.tolist()]

    def _check_length(self, positions: int) -> None:
        limit = getattr(self.language_model.config, "max_position_embeddings", None)
        if limit is not None and positions > limit:
            raise ValueError(
                f"prefix and caption take {positions} positions, the language model has {limit}:"
                " use a smaller grid or max_tokens, or a larger n_positions"
            )


def caption_loss(logits_BTV: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of each token after begin, given all before it: `-1/N sum log p(w_t | w_<t)`.

    mask [B,T] bool, True = real token; N counts the real tokens after begin in the whole batch.
    """
    real = mask_BT[:, 1:]
    logits_NV, target_N = logits_BTV[:, :-1][real].float(), ids_BT[:, 1:][real]
    return {
        "caption_loss": F.cross_entropy(logits_NV, target_N),
        "token_accuracy": (logits_NV.argmax(-1) == target_N).float().mean(),
    }


def _until(ids: list[int], end: int) -> list[int]:
    """`ids` before the first `end`."""
    return ids[: ids.index(end)] if end in ids else ids
