"""Parts: what a foreign checkpoint becomes before it is a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparc_pretrain import run_folder
from sparc_pretrain.blueprint import misfit, shapes_of
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower

# Largest difference between a converted model and its source, as a share of the source's largest
# value: float32 through another order of the same operations.
TOLERANCE = 1e-5
Outputs = Callable[[Tensor], Tensor]


@dataclass
class Parts:
    """Towers with their weights, and what else a run folder says.

    image_projection, text_projection: (weight [D,Dv], bias [D] or None) into the shared space; None
    = the pooled state is the embedding. log_scale: log of the source's 1/tau. source: where it came
    from, for config.json. embed: the source's own images [B,3,H,W] -> embedding, the oracle of
    `convert`; embed_text: ids [B,T] -> embedding. notes: what was left out, one line each.
    """

    vision: VisionTower
    source: dict[str, Any]
    embed: Outputs
    image_projection: tuple[Tensor, Tensor | None] | None = None
    text: TextTower | None = None
    text_projection: tuple[Tensor, Tensor | None] | None = None
    embed_text: Outputs | None = None
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    log_scale: float | None = None
    tokenizer: Tokenizer | None = None
    notes: list[str] = field(default_factory=list)


def assemble(parts: Parts) -> DualEncoder:
    """Parts -> a DualEncoder in eval mode, h_v the identity and g_v, g_t the source's projections.

    Raises:
        ValueError: image and text projections of different widths.
    """
    width = _width(parts.image_projection, parts.vision.width)
    if parts.text is not None and _width(parts.text_projection, parts.text.width) != width:
        raise ValueError(f"the text embedding is not {width} wide, as the image embedding is")
    model = DualEncoder(
        parts.vision,
        parts.text,
        width,
        global_head=False,
        mean=parts.mean,
        std=parts.std,
        tokenizer=parts.tokenizer,
    )
    _fill(model.adapters.g_v, parts.image_projection)
    if parts.text is not None:
        _fill(model.adapters.g_t, parts.text_projection)
        model.objective_config = {"type": "Clip"}  # read by the cosine of the global embeddings
    model.interpolation = parts.interpolation
    return model.eval()


@torch.inference_mode()
def difference(parts: Parts, model: DualEncoder, batch: int = 2) -> float:
    """Largest difference of `model`'s embeddings from the source's on random images and ids, as a
    share of the source's largest value.

    Raises:
        ValueError: it is above `TOLERANCE`: this source computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    size = model.vision.img_size
    image = torch.randn(batch, 3, size, size, generator=generator)
    pairs = [(parts.embed(image), model.encode_image(image))]
    if parts.text is not None and parts.embed_text is not None:
        settings = parts.text.settings
        shape = (batch, settings["max_tokens"])
        ids = torch.randint(settings["vocab_size"], shape, generator=generator)
        if parts.text.style.eos_id is not None:  # the source looks for an end token
            ids[:, -2] = parts.text.style.eos_id
        pairs.append((parts.embed_text(ids), model.encode_text(ids)))
    worst = max(relative(found, wanted) for wanted, found in pairs)
    if not worst <= TOLERANCE:
        raise ValueError(
            f"{parts.source['name']}: converted features differ from the source's by {worst:.1e} "
            f"(allowed {TOLERANCE:.0e}); this architecture computes something a VisionTower does "
            "not"
        )
    return worst


def relative(found: Tensor, wanted: Tensor) -> float:
    """max |found - wanted| / max |wanted|."""
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def write(parts: Parts, model: DualEncoder, folder: str | Path) -> run_folder.RunFolder:
    """Write the run folder of a converted model; the objective's scale goes with it."""
    weights = model.state_dict()
    if model.text is not None:
        scale = 0.0 if parts.log_scale is None else parts.log_scale
        weights["objective.temperature.log_scale"] = torch.tensor(scale)
    config = {**model.config(), "samples_seen": None, "source": parts.source}
    tokenizer = parts.tokenizer.to_json() if parts.tokenizer else None
    return run_folder.write(folder, config, weights, tokenizer)


def load(module: nn.Module, weights: Mapping[str, Tensor], source: str, remedy: str) -> None:
    """Load every weight into `module`.

    Raises:
        ValueError: missing, unknown or misshapen weights; the first of each are named, with
            `remedy`.
    """
    wrong = misfit(shapes_of(module.state_dict()), shapes_of(weights))
    if wrong:
        raise ValueError(f"{source} does not fit: {wrong}; {remedy}")
    module.load_state_dict(dict(weights))


def _width(projection: tuple[Tensor, Tensor | None] | None, tower: int) -> int:
    return tower if projection is None else projection[0].shape[0]


@torch.no_grad()
def _fill(linear: nn.Linear, projection: tuple[Tensor, Tensor | None] | None) -> None:
    weight, bias = projection or (torch.eye(linear.in_features), None)
    linear.weight.copy_(weight)
    linear.bias.zero_() if bias is None else linear.bias.copy_(bias)
