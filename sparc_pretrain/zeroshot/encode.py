"""A run folder read the way it was trained: images and captions of a data set -> scores [I,T].

A reader is anything with `reads` (the features it uses) and `scores(image, text) -> [I,T]`: the
run's objective, or `PooledCosine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from sparc_pretrain import run_folder
from sparc_pretrain.blueprint import draw
from sparc_pretrain.data import images
from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.registry import OBJECTIVES, build_described
from sparc_pretrain.types import ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot.given_boxes import Boxes, regions_of
from sparc_pretrain.zeroshot.pace import Pace

Side = TypeVar("Side", ImageFeatures, TextFeatures)


@dataclass(frozen=True)
class CaptionedImages:
    """An evaluation set: image files, captions, and the row of each caption's image; boxes by file
    name, for models that read regions.
    """

    files: list[Path]
    captions: list[str]
    image_of_text: list[int]
    boxes: Boxes | None = None

    @classmethod
    def read(
        cls,
        folder: str | Path,
        captions: str | Path,
        split: str | None = None,
        per_image: int | str | None = None,
    ) -> CaptionedImages:
        """Read a caption file (any format of `data.captions`) whose images are in `folder`.

        `per_image` keeps the first captions of each image (papers use five of COCO's five to
        seven), 'longest' the longest.

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
            if per_image == "longest":
                of_image = [max(of_image, key=len)] if of_image else []
            else:
                of_image = of_image[:per_image]
            texts += of_image
            owners += [row] * len(of_image)
        if not texts:
            raise ValueError(f"{captions} holds no captions")
        return cls(files, texts, owners)

    def first(self, count: int) -> CaptionedImages:
        """The first images and their captions."""
        kept = [n for n, owner in enumerate(self.image_of_text) if owner < count]
        texts = [self.captions[n] for n in kept]
        owners = [self.image_of_text[n] for n in kept]
        return CaptionedImages(self.files[:count], texts, owners, self.boxes)


def load(run: str | Path) -> tuple[DualEncoder, Objective]:
    """The model of a run folder and its objective, whose `scores` says how the model is read; a
    folder that names no objective (of towers from elsewhere) is read by `PooledCosine`.

    Raises as `DualEncoder.from_pretrained` and `registry.build_described`.
    """
    opened = run_folder.open_run(run)
    check(opened)
    model = DualEncoder.from_pretrained(opened.path)
    if "type" not in (opened.config["objective"] or {}):
        return model, PooledCosine()
    objective = _objective(opened)
    objective.load_state_dict(opened.weights("objective."))
    return model, objective.eval()


def untrained(run: str | Path) -> tuple[DualEncoder, Objective]:
    """As `load`, with random weights."""
    opened = run_folder.open_run(run)
    check(opened)
    model = DualEncoder.from_config(opened.config)
    model.tokenizer = DualEncoder.from_pretrained(opened.path).tokenizer
    return model, _objective(opened)


def check(opened: run_folder.RunFolder) -> None:
    """Raises InvalidRunFolder when config and weights are not of one model and objective; nothing
    of its size is built.
    """
    DualEncoder.on_paper(opened)
    if "type" in (opened.config["objective"] or {}):
        draw(opened, "objective.", lambda: _objective(opened))


def _objective(opened: run_folder.RunFolder) -> Objective:
    place = f"{opened.path / run_folder.CONFIG}"
    return build_described(OBJECTIVES, opened.config["objective"], place)


class PooledCosine(Objective):
    """The plain reading of any model: cosine of its global embeddings.

    Args:
        head: 'global' = the image embedding, through h_v; 'local' = the mean of the patches, for
            models whose h_v was not trained.
    """

    def __init__(self, head: str = "global") -> None:
        super().__init__()
        self.head = head
        self.score_features = ("image" if head == "global" else "patches", "text")
        self.coupled_features = self.score_features

    def formula(self) -> str:
        """What it compares, for the protocol."""
        pooled = "g_v(h_v(pooled states))" if self.head == "global" else "mean of g_v(patches)"
        return f"cosine of {pooled} and the text embedding"

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """[I,T]."""
        pooled = image.image if self.head == "global" else image.patches.mean(dim=1)
        return unit(pooled) @ unit(text.text).T


def readers(objective: Objective) -> dict[str, Objective]:
    """What goes before a metric's name -> its reader: '' the run's own, 'pooled_' plain cosine,
    where there are trained vectors to compare.
    """
    if not objective.shares_space:
        return {"": objective}
    return {"": objective, "pooled_": PooledCosine(objective.trained_head)}


def read_by(objective: Objective) -> str:
    """How `readers` read, for a protocol."""
    name = type(objective).__name__
    if not objective.shares_space:
        return f"{name}.match of all pairs; {objective.reading}"
    return f"{name}.scores; pooled_: {PooledCosine(objective.trained_head).formula()}"


def read_all(
    model: DualEncoder,
    readers: Mapping[str, Objective],
    data: CaptionedImages,
    resize: str = "crop",
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """Every image against every caption by several readers -> [I,T] each, on the CPU."""
    texts = encode_texts(model, data.captions, reads_of(readers.values()), batch_size * 4)
    texts_of = dict.fromkeys(readers, texts)
    return score_images(model, readers, data.files, texts_of, resize, batch_size, data.boxes)


def scores(
    model: DualEncoder,
    objective: Objective,
    data: CaptionedImages,
    resize: str = "crop",
    batch_size: int = 64,
) -> Tensor:
    """Score every image against every caption -> [I,T] on the CPU.

    Args:
        resize: how an image becomes square, 'crop' (shorter side, then centre) or 'squash'.
    """
    return read_all(model, {"": objective}, data, resize, batch_size)[""]


@torch.no_grad()
def score_images(
    model: DualEncoder,
    readers: Mapping[str, Objective],
    files: Sequence[Path],
    texts: Mapping[str, Sequence[TextFeatures]],
    resize: str = "crop",
    batch_size: int = 64,
    boxes: Boxes | None = None,
) -> dict[str, Tensor]:
    """Score image files against encoded texts, by several readers in one pass -> [I,T] of each.

    Images are scored batch by batch, so that the patches of a data set are never held.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in readers}
    fused = sum(len(t.mask) for n, r in readers.items() if not r.shares_space for t in texts[n])
    pace = Pace(fused * len(files))
    how = (reads_of(readers.values()), resize, batch_size, readers.get(""), boxes)
    for images_B in encode_images(model, files, *how):
        for name, reader in readers.items():
            blocks = []
            for t in texts[name]:  # padded per batch, so they are scored per batch
                blocks.append(reader.scores(images_B, t).float().cpu())
                if not reader.shares_space:
                    pace.count(blocks[-1].numel())
            rows[name].append(torch.cat(blocks, dim=1))
    return {name: torch.cat(found) for name, found in rows.items()}


@torch.no_grad()
def encode_images(
    model: DualEncoder,
    files: Sequence[Path],
    kept: Sequence[str],
    resize: str = "crop",
    batch_size: int = 64,
    objective: Objective | None = None,
    boxes: Boxes | None = None,
) -> Iterator[ImageFeatures]:
    """Features of image files, a batch at a time, with only the fields `kept`; objective: that
    says how it reads pictures; boxes: become their regions.

    Raises ValueError naming the file that is no image.
    """
    size = model.vision.img_size
    for part in _chunks(files, batch_size, "images"):
        opened = [open_image(file) for file in part]
        pixels = torch.stack([images.eval_resize(one, size, resize) for one in opened])
        pixels = pixels.to(model.mean.device)
        shown = keep((objective or Objective()).read_images(model, pixels), kept)
        if boxes is not None:
            sizes = [tuple(one.shape[-2:]) for one in opened]
            shown.regions = regions_of(part, sizes, boxes, resize, model).to(pixels.device)
        yield shown


@torch.no_grad()
def encode_texts(
    model: DualEncoder, texts: Sequence[str], kept: Sequence[str], batch_size: int = 256
) -> list[TextFeatures]:
    """Features of texts, in batches of their own padding, with only the fields `kept`."""
    return [
        keep(model.text_features(*model.tokenize(part)), kept)
        for part in _chunks(texts, batch_size, "captions")
    ]


def open_image(file: str | Path) -> Tensor:
    """An image file as [3,H,W] uint8. Raises FileNotFoundError and ValueError naming the file."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"no image {file}")
    try:
        return images.decode(Path(file).read_bytes())
    except images.BadImage as error:
        raise ValueError(f"{file}: {error}") from None


def reads_of(readers: Iterable[Objective]) -> tuple[str, ...]:
    """The features that at least one of the readers uses."""
    return tuple(dict.fromkeys(name for one in readers for name in one.score_features))


def keep(side: Side, names: Sequence[str]) -> Side:
    """Drop the tensors that nobody reads: patches of a whole data set are large."""
    small = {"mask", "special", *names}
    values = {f.name: getattr(side, f.name) for f in fields(side)}
    return type(side)(
        **{
            k: v[:, :0] if isinstance(v, Tensor) and k not in small else v
            for k, v in values.items()
        }
    )


def _chunks(items: Sequence, size: int, what: str) -> Iterator[Sequence]:
    if size < 1:
        raise ValueError(f"a batch size of {size}: it must be at least 1")
    for start in tqdm(range(0, len(items), size), desc=what, unit="batch", disable=None):
        yield items[start : start + size]
