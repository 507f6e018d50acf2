"""A run folder on its way out: opened once, written by a `to_*` module, proved equal, carded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain import run_config, run_folder
from sparc_pretrain.atomic_file import atomic_folder
from sparc_pretrain.convert.files import refuse_existing
from sparc_pretrain.convert.parts import TOLERANCE, relative
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.run_config import INTERPOLATIONS


@dataclass
class Opened:
    """A run folder and its model."""

    run: run_folder.RunFolder
    model: DualEncoder

    @classmethod
    def read(cls, run: str | Path) -> Opened:
        """Verify and load a run folder; raises as `run_folder.verify` does."""
        opened = run_folder.verify(run)
        run_config.check_vision(opened.config, opened.path)
        return cls(opened, DualEncoder.from_pretrained(opened.path))

    def image(self) -> Tensor:
        """A random normalised image [1,3,S,S] of the training size."""
        size = self.model.vision.img_size
        return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    def ids(self) -> Tensor:
        """Random token ids [2,max_tokens], with an end token where one is looked for."""
        text = self.model.text
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(text.settings["vocab_size"], (2, text.max_tokens), generator=generator)
        if text.style.eos_id is not None:
            ids[:, -2] = text.style.eos_id
        return ids

    def log_scale(self) -> Tensor:
        """log of the objective's 1/tau, 0 if it has none."""
        found = self.run.weights("objective.temperature.")
        return found.get("log_scale", torch.tensor(0.0))

    def inexact_projection(self) -> str | None:
        """Why the image embedding is not one matrix times the pooled state, None if it is."""
        if self.model.global_head:
            return "h_v, the non-linear head of its image path, has no place there"
        return None


@dataclass
class Exported:
    """What was written: `architecture` in the other library's words, the largest relative
    `difference` found by loading it back, code to use it, and what was left out.
    """

    architecture: str
    difference: float
    usage: str
    notes: list[str] = field(default_factory=list)


Writer = Callable[[Opened, Path], Exported]


def export(
    run: str | Path, folder: str | Path, writer: Writer, library: str, force: bool = False
) -> Exported:
    """Write `run` into `folder` with `writer`, a model card beside it; nothing is left behind when
    the result is not equal.

    Raises:
        FileExistsError: `folder` exists. ValueError: the other library has no such architecture.
    """
    opened = Opened.read(run)
    refuse_existing(folder, force)
    with atomic_folder(folder) as draft:
        done = writer(opened, draft)
        (draft / "README.md").write_text(card(opened, done, library), encoding="utf-8")
    return done


def proved(pairs: list[tuple[Tensor, Tensor]], architecture: str) -> float:
    """The largest relative difference of (found, wanted) pairs.

    Raises:
        ValueError: it is above `TOLERANCE`: the architecture does not fit after all.
    """
    worst = max(relative(found, wanted) for found, wanted in pairs)
    if not worst <= TOLERANCE:
        raise ValueError(
            f"{architecture} gives features that differ by {worst:.1e} (allowed {TOLERANCE:.0e}), "
            "so nothing was written"
        )
    return worst


def write_processing(opened: Opened, folder: Path, words: bool = False) -> None:
    """transformers' preprocessor_config.json, and with `words` the run's tokenizer, if any."""
    model, size = opened.model, opened.model.vision.img_size
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": INTERPOLATIONS[model.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": model.config()["mean"],
        "image_std": model.config()["std"],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    if words and model.tokenizer is not None and model.text is not None:
        (folder / "tokenizer.json").write_text(model.tokenizer.to_json(), encoding="utf-8")
        inner = model.tokenizer.inner
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.text.max_tokens,
            "bos_token": inner.id_to_token(model.tokenizer.bos_id),
            "eos_token": inner.id_to_token(model.tokenizer.eos_id),
            "pad_token": inner.id_to_token(model.tokenizer.pad_id),
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def card(opened: Opened, done: Exported, library: str) -> str:
    """The README of an exported folder, with the hub's header."""
    config = opened.run.config
    vision, source = config["vision"], config.get("source") or {}
    origin = f"{source['library']}: {source['name']}" if source else "pre-trained from scratch"
    notes = "".join(f"- {note}\n" for note in done.notes)
    pool = vision["pool"]
    return f"""---
library_name: {library}
tags: [image-feature-extraction, sparc]
---
# {vision["arch"]} from a SPARC run folder

| | |
|---|---|
| architecture | {done.architecture} |
| vision tower | width {vision["width"]}, patch {vision["patch"]}, {vision["img_size"]} px, {pool} |
| objective | {json.dumps(config["objective"])} |
| image-text pairs seen | {config.get("samples_seen")} |
| origin | {origin} |
| run folder sha256 | {opened.run.sha256} |
| largest relative difference of the features | {done.difference:.1e} |

```python
{done.usage}
```
Pixels in [0, 1] are normalised with mean {config["mean"]} and std {config["std"]}.
{notes}
The licence is that of the weights this was made from. Weights only know what their training
captions said; check them on your own data before relying on them.
"""
