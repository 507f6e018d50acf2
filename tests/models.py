"""Small models and batches that several tests build."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.logging import MessageHub

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.types import Batch, Concepts, Regions, Tags

VISION = dict(
    arch="vit_tiny_patch16_224",
    img_size=32,
    overrides=dict(embed_dim=24, depth=2, num_heads=2, patch_size=8),
)
TEXT = dict(vocab_size=40, width=24, layers=1, heads=2, max_tokens=10)


def encoder(tokenizer=None) -> DualEncoder:
    """A dual encoder with 16 patches of 8 px at 32 px and D = 16."""
    text = TEXT | ({"vocab_size": tokenizer.vocab_size} if tokenizer else {})
    return DualEncoder(VisionTower(**VISION), TextTower(**text), 16, tokenizer=tokenizer)


def pretrainer(objective: dict | None = None, layers: int = 1, **options) -> Pretrainer:
    """The same dual encoder under an objective; layers: of the text tower."""
    # what is drawn follows from the step, and an earlier run of this process left its own there
    MessageHub.get_current_instance().update_info("iter", 0)
    objective, text = objective or dict(type="Sparc"), {**TEXT, "layers": layers}
    return Pretrainer(vision=VISION, text=text, objective=objective, width=16, **options)


def masked_objective(kind: str, **options) -> dict:
    """The config of an objective that hides words, with a small fusion encoder."""
    fusion = dict(layers=2, heads=2, dropout=0.0)
    return dict(type=kind, mask_id=39, word_ids=[3, 39], fusion=fusion) | options


def masked(kind: str, accumulate: int = 1, layers: int = 0, **options) -> Pretrainer:
    """A pretrainer of it in float64."""
    torch.manual_seed(0)
    made = pretrainer(masked_objective(kind, **options), layers=layers, accumulate=accumulate)
    return made.double().train()


def saved(kind: str, folder: Path, texts: list[str], layers: int = 0) -> Path:
    """The run folder of an untrained pretrainer of `masked_objective`, its words those of texts."""
    torch.manual_seed(0)
    words = Tokenizer.train(texts, 300).with_mask()
    folder.mkdir(parents=True)
    (folder / "words.json").write_text(words.to_json())
    objective = masked_objective(kind, mask_id=words.mask_id, word_ids=list(words.word_ids))
    made = Pretrainer(
        vision=VISION,
        text={**TEXT, "vocab_size": words.vocab_size, "layers": layers, "max_tokens": 16},
        objective=objective,
        width=16,
        tokenizer=str(folder / "words.json"),
    )
    config = {**made.encoder.config(), "objective": made.objective_config}
    return run_folder.write(folder / "run", config, made.run_weights(), words.to_json()).path


def batch(size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random images (float, as already normalised) with captions of uneven length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 10, (size,), generator=generator)
    lengths[0] = 9
    mask = torch.arange(9) < lengths[:, None]
    special = torch.zeros_like(mask)
    special[:, 0] = True
    return Batch(
        image=torch.randn(size, 3, 32, 32, generator=generator, dtype=dtype),
        ids=torch.randint(1, 40, (size, 9), generator=generator) * mask,
        mask=mask,
        special=special,
        key=[f"s:{i}" for i in range(size)],
        caption=[""] * size,
    )


def concept_batch(
    size: int = 8, seed: int = 0, concepts: int = 3, dtype: torch.dtype = torch.float32
) -> Batch:
    """`batch` with boxes and texts of uneven number; the last image has its caption alone."""
    generator = torch.Generator().manual_seed(seed)
    plain = batch(size, seed, dtype)
    shape = (size, 1 + concepts)
    ends = torch.rand(*shape, 2, 2, generator=generator).sort(dim=2).values
    box = ends.flatten(2)
    box[:, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    valid = torch.rand(shape, generator=generator) < 0.6
    valid[:, 0], valid[0], valid[-1, 1:] = True, True, False
    lengths = torch.randint(3, 8, shape, generator=generator)
    mask = (torch.arange(8) < lengths[..., None]) & valid[..., None]
    special = torch.zeros_like(mask)
    special[..., 0] = mask[..., 0]
    special &= mask
    ids = torch.randint(3, 39, (*shape, 8), generator=generator) * mask
    word = torch.where(mask & ~special, torch.arange(8) // 2, -1)
    found = Concepts(
        box, ids, mask, special, word, valid, torch.randint(0, 9, shape, generator=generator)
    )
    plain.concepts, plain.draw = found, torch.randint(-(2**60), 2**60, (size,), generator=generator)
    plain.image_id = plain.product_id = torch.arange(size) // 2 + 100
    return plain


def region_batch(size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """`batch` with what objectives of one stream read: up to 5 regions of 4 classes, the last image
    with 1; tags, of which two images have the same; saliency; two captions of each image.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = batch(size, seed, dtype)
    plain.ids = torch.where(plain.mask, plain.ids % 36 + 3, 0)
    places = torch.arange(9).expand(size, -1)
    plain.word = torch.where(plain.mask & ~plain.special, places // 2, -1)
    plain.draw = torch.randint(-(2**60), 2**60, (size,), generator=generator)
    plain.image_id = torch.arange(size) // 2 + 100
    plain.product_id = torch.arange(size) // 2 + 200
    box = torch.rand(size, 5, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    valid = torch.arange(5) < torch.randint(2, 6, (size, 1), generator=generator)
    valid[-1, 1:] = False
    label = torch.randint(0, 5, (size, 5), generator=generator) * valid
    plain.regions = Regions(box * valid[..., None], valid, label)
    length = torch.randint(2, 5, (size, 1), generator=generator)
    length[3] = length[2]
    mask = torch.arange(4) < length
    ids = torch.randint(3, 38, (size, 4), generator=generator)
    ids[3] = ids[2]
    ids = torch.where(torch.arange(4) == length - 1, 2, ids) * mask  # the end token is 2
    word = torch.where(mask & (torch.arange(4) < length - 1), torch.arange(4), -1)
    plain.tags = Tags(ids, mask, word, ids @ torch.tensor([1, 40, 1600, 64000]))
    corner = torch.rand(size, 2, generator=generator) / 3
    plain.saliency = torch.cat([corner, corner + 0.6], dim=1)
    return plain
