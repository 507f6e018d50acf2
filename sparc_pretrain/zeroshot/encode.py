"""A run folder read the way it was trained: images and captions of a data set -> scores [I,T]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sparc_pretrain import run_folder
from sparc_pretrain.data import images
from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import ImageFeatures, TextFeatures

Side = TypeVar("Side", ImageFeatures, TextFeatures)


@dataclass(frozen=True)
class CaptionedImages:
    """An evaluation set: image files, captions, and the row of each caption's image."""

    files: list[Path]
    captions: list[str]
    image_of_text: list[int]

    @classmethod
    def read(
        cls, folder: str | Path, captions: str | Path, split: str | None = None
    ) -> CaptionedImages:
        """Read a caption file (any format of `data.captions`) whose images are in `folder`.

        Raises:
            FileNotFoundError: the first image that is missing. ValueError: nothing to evaluate.
        """
        table = read_captions(Path(captions), split)
        files, texts, owners = [], [], []
        for row, (name, of_image) in enumerate(table.items()):
            path = Path(folder) / name
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; {captions} names it")
            files.append(path)
            texts += of_image
            owners += [row] * len(of_image)
        if not texts:
            raise ValueError(f"{captions} holds no captions")
        return cls(files, texts, owners)


def load(run: str | Path) -> tuple[DualEncoder, nn.Module]:
    """The model of a run folder and its objective, whose `scores` says how the model is read."""
    opened = run_folder.open_run(run)
    model = DualEncoder.from_pretrained(opened.path)
    objective = OBJECTIVES.build(dict(opened.config["objective"]))
    objective.load_state_dict(opened.weights("objective."))
    return model, objective.eval()


@torch.inference_mode()
def scores(
    model: DualEncoder,
    objective: nn.Module,
    data: CaptionedImages,
    resize: str = "crop",
    batch_size: int = 64,
) -> Tensor:
    """Score every image against every caption -> [I,T] on the CPU.

    Args:
        resize: how an image becomes square, 'crop' (shorter side, then centre) or 'squash'.
    """
    device, kept = model.mean.device, getattr(objective, "reads", ("image", "text"))
    size = model.vision.img_size
    image_parts = []
    for files in _chunks(data.files, batch_size, "images"):
        pixels = [images.eval_resize(images.decode(f.read_bytes()), size, resize) for f in files]
        image_parts.append(_keep(model.image_features(torch.stack(pixels).to(device)), kept))
    text_parts = []
    for texts in _chunks(data.captions, batch_size * 4, "captions"):
        text_parts.append(_keep(model.text_features(*model.tokenize(texts)), kept))
    # Captions are padded per batch, so they are scored per batch.
    blocks = [torch.cat([objective.scores(i, t) for i in image_parts]) for t in text_parts]
    return torch.cat([block.float().cpu() for block in blocks], dim=1)


def _keep(side: Side, kept: Sequence[str]) -> Side:
    """Drop the tensors that `scores` does not read: patches of a whole data set are large."""
    small = {"mask", "special", *kept}
    empty = side.image[:, :0] if isinstance(side, ImageFeatures) else side.text[:, :0]
    values = {f.name: getattr(side, f.name) for f in fields(side)}
    return type(side)(**{k: v if k in small else empty for k, v in values.items()})


def _chunks(items: Sequence, size: int, what: str) -> Iterator[Sequence]:
    for start in tqdm(range(0, len(items), size), desc=what, unit="batch", disable=None):
        yield items[start : start + size]
