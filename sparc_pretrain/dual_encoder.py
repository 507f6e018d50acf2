"""DualEncoder: two towers and the adapters g_v, h_v, g_t -> Features; read from and written to run
folders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain import __version__, hub_run, run_folder
from sparc_pretrain.blueprint import draw, materialise
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.towers.regions import box_cells, pool_cells
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.types import Features, ImageFeatures, TextFeatures

# ImageNet's statistics over [0,1] pixels: what mm configs and timm's ViTs expect of a normalised
# image.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Adapters(nn.Module):
    """SPARC's maps into the shared space (sec. 3): g_v and g_t linear, h_v one non-linear layer on
    the global image path.

    Args: vision_width Dv, text_width Dt (0 = no text tower), width D; global_head: h_v =
    Linear(Dv,Dv) + GELU, else identity.
    """

    def __init__(self, vision_width: int, text_width: int, width: int, global_head: bool = True):
        super().__init__()
        self.g_v = nn.Linear(vision_width, width)
        self.g_t = nn.Linear(text_width, width) if text_width else None
        self.h_v = (
            nn.Sequential(nn.Linear(vision_width, vision_width), nn.GELU())
            if global_head
            else nn.Identity()
        )


class DualEncoder(nn.Module):
    """Images and captions into one space.

    Args:
        vision, text: the towers (text None: a vision-only folder).
        width: D of the shared space (the paper's: 512).
        global_head: use h_v on the pooled image.
        mean, std: of pixels in [0,1], per channel.
        tokenizer: turns captions into ids; needed by `encode_text` on strings.
    """

    def __init__(
        self,
        vision: VisionTower,
        text: TextTower | None,
        width: int = 512,
        global_head: bool = True,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.text, self.tokenizer = vision, text, tokenizer
        self.width, self.global_head = width, global_head
        self.adapters = Adapters(vision.width, text.width if text else 0, width, global_head)
        self.register_buffer("mean", _channels(mean), persistent=False)
        self.register_buffer("std", _channels(std), persistent=False)
        self.objective_config: dict[str, Any] = {}
        self.interpolation = "bicubic"

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor, special: Tensor) -> Features:
        """image [B,3,H,W] (uint8, or float, normalised), ids, mask, special [B,T] -> Features."""
        return Features.of(self.image_features(image), self.text_features(ids, mask, special))

    def normalize(self, image: Tensor) -> Tensor:
        """uint8 pixels [B,3,H,W] -> float with the run's mean and std; float input is returned as
        it is.
        """
        if image.dtype != torch.uint8:
            return image
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std

    def image_features(self, image: Tensor) -> ImageFeatures:
        """v_p = g_v(f_v(x)_p) without h_v, and v = g_v(h_v(mean_p f_v(x)_p)) (spec of SPARC, sec.
        3).

        A converted tower pools its class token, or by attention, in the place of the mean.
        """
        tokens = self.vision(self.normalize(image), prefix=True)
        states = tokens[:, self.vision.prefix :]
        pooled = self.adapters.g_v(self.adapters.h_v(self.vision.pool(tokens)))
        return ImageFeatures(image=pooled, patches=self.adapters.g_v(states), patch_states=states)

    def pooled_states(self, image: Tensor) -> Tensor:
        """What the vision tower pools of each of the pictures [B,n,3,s,s] -> [B,n,Dv]."""
        tokens = self.vision(self.normalize(image.flatten(0, 1)), prefix=True)
        return self.vision.pool(tokens).unflatten(0, image.shape[:2])

    def concept_features(self, patch_states: Tensor, box: Tensor, valid: Tensor) -> Tensor:
        """Vectors [B,K,D] of what lies in boxes, made as that of a whole image is: g_v(h_v(mean of
        the states inside)) (X-VLM, arXiv 2111.08276, sec. 3.1).

        Args: patch_states: [B,P,Dv] of a square image. box: [B,K,4], x0 y0 x1 y1 in 0..1. valid:
            [B,K] bool; the vectors of the others mean nothing, and are finite.
        """
        side = math.isqrt(patch_states.shape[1])
        cells = box_cells(torch.where(valid[..., None], box, 0), (side, side))
        pooled = pool_cells(patch_states, cells & valid[..., None])
        return self.adapters.g_v(self.adapters.h_v(pooled))

    def text_features(self, ids: Tensor, mask: Tensor, special: Tensor) -> TextFeatures:
        """t_l = g_t(f_t(x)_l), and t = g_t(mean over real tokens), or of the state that the tower
        pools (arXiv 2401.09865, section 3); words are g_t of the tower's token embeddings.

        Args: ids, mask, special: [B,T]. Raises ValueError for a run without a text tower.
        """
        if self.text is None:
            raise ValueError("this run has no text tower")
        states = self.text(ids, mask)
        pooled = self.text.pool(states, mask, ids)
        states = states[:, : ids.shape[1]]  # SigLIP's tower has padded them to its length
        return TextFeatures(
            text=self.adapters.g_t(pooled),
            tokens=self.adapters.g_t(states),
            mask=mask,
            special=special,
            token_states=states,
            words=self.adapters.g_t(self.text.embed(ids)),
        )

    def packed_text_features(
        self, ids: Tensor, mask: Tensor, special: Tensor, rows: Tensor
    ) -> TextFeatures:
        """`text_features` of texts [B,K,T]; only `rows` [n] of the B K texts, which have real
        tokens, pass through the tower, the others are 0.

        Where there is none, one row of padding passes, times 0: a tower that a process does not use
        would make the others wait.
        """
        there = mask.flatten(0, 1).any(dim=1)
        if not len(rows):
            rows = torch.zeros(1, dtype=torch.long, device=ids.device)
        kept = mask.flatten(0, 1)[rows]
        kept[:, 0] = True  # of the row of padding
        made = self.text_features(ids.flatten(0, 1)[rows], kept, special.flatten(0, 1)[rows])

        def spread(x: Tensor) -> Tensor:
            x = x * there[rows].view(-1, *[1] * (x.ndim - 1))
            empty = x.new_zeros(len(there), *x.shape[1:])
            return empty.index_copy(0, rows, x).unflatten(0, ids.shape[:2])

        parts = {k: spread(v) for k, v in vars(made).items() if k not in ("mask", "special")}
        return TextFeatures(**parts, mask=mask, special=special)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Global image embedding [B,D] of images [B,3,H,W]; `normalize` makes unit vectors."""
        return _unit(self.image_features(image).image, normalize)

    def encode_patches(self, image: Tensor, head: str = "local", normalize: bool = False) -> Tensor:
        """Patch embeddings [B,P,D] of uint8 or float pixels [B,3,H,W]: `local` = g_v (the
        fine-grained loss's path), `global` = g_v after h_v per patch (zero-shot segmentation,
        App. D.7). Raises ValueError for another head.
        """
        if head not in ("local", "global"):
            raise ValueError(f"head {head!r}: use 'local' or 'global'")
        states = self.vision(self.normalize(image))
        if head == "global":
            states = self.adapters.h_v(states)
        return _unit(self.adapters.g_v(states), normalize)

    def encode_text(
        self, text: list[str] | Tensor, mask: Tensor | None = None, normalize: bool = False
    ) -> Tensor:
        """Global text embedding [B,D] of strings, or of ids [B,T] with their mask [B,T]."""
        if not isinstance(text, Tensor):
            ids, mask, _ = self.tokenize(text)
        else:
            ids = text
            mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return _unit(self.text_features(ids, mask, torch.zeros_like(mask)).text, normalize)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Strings -> ids, mask, special [B,T] on the model's device, padded to the longest.

        Raises ValueError for a run without tokenizer or text tower.
        """
        if self.tokenizer is None or self.text is None:
            raise ValueError(
                "this model has no tokenizer; load it with DualEncoder.from_pretrained"
            )
        encoded = self.tokenizer.batch(list(texts), self.text.max_tokens)
        return tuple(x.to(self.mean.device) for x in encoded)

    def config(self) -> dict[str, Any]:
        """The run folder's config.json, without what only the training knows."""
        return {
            "vision": self.vision.config(),
            "text": self.text.config() if self.text else None,
            "width": self.width,
            "global_head": self.global_head,
            "mean": [round(v, 6) for v in self.mean.flatten().tolist()],
            "std": [round(v, 6) for v in self.std.flatten().tolist()],
            "interpolation": self.interpolation,
            "objective": self.objective_config,
            "code_version": __version__,
        }

    def save_pretrained(
        self, folder: str | Path, extra: dict[str, Any] | None = None
    ) -> run_folder.RunFolder:
        """Write a run folder; `extra` adds keys to config.json (objective, samples_seen)."""
        tokenizer = self.tokenizer.to_json() if self.tokenizer else None
        return run_folder.write(
            folder, {**self.config(), **(extra or {})}, self.state_dict(), tokenizer
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DualEncoder:
        """The model of a run folder, in eval mode; every weight must be there and no other.

        Args:
            folder: its path, a work dir, `sparc-scenes-tiny`, or USER/NAME on the Hugging Face hub.

        Raises:
            FileNotFoundError, run_folder.InvalidRunFolder: see `run_folder.open_run`; also when
            weights do not fit.
        """
        run = run_folder.open_run(hub_run.fetched(folder) if hub_run.is_name(folder) else folder)
        model = cls.on_paper(run)
        weights = {k: v for k, v in run.weights().items() if not k.startswith("objective.")}
        materialise(model, weights, made=[model])
        model.mean, model.std = _channels(run.config["mean"]), _channels(run.config["std"])
        if (run.path / run_folder.TOKENIZER).exists():
            model.tokenizer = Tokenizer.load(run.path)
        model.objective_config = run.config["objective"]
        model.interpolation = run.config["interpolation"]
        return model.eval()

    @classmethod
    def on_paper(cls, run: run_folder.RunFolder) -> DualEncoder:
        """The model of a run folder on the meta device, without weights and words; raises
        InvalidRunFolder when its config and its weights are not of one model.
        """
        return draw(run, "", lambda: cls.from_config(run.config))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DualEncoder:
        """The architecture that a run folder's config.json describes, with random weights."""
        return cls(
            VisionTower.from_config(config["vision"]),
            TextTower.from_config(config["text"]) if config["text"] else None,
            config["width"],
            config.get("global_head", True),
            config["mean"],
            config["std"],
        )


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


def _unit(x: Tensor, normalize: bool) -> Tensor:
    return F.normalize(x, dim=-1) if normalize else x
