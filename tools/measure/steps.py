"""A pre-training step on random pairs: the model, its optimizer and a batch that stays."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from torch.utils.flop_counter import FlopCounterMode

import sparc_pretrain.engine
import sparc_pretrain.objectives  # noqa: F401  registers them
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.types import Batch, Concepts, Regions, Tags

VOCABULARY = 32_000


class Step:
    """Calling it does one optimizer step.

    Args:
        objective: of the config. arch: of the vision tower. text: width, layers, heads. size: of an
            image in pixels. batch, tokens: pairs, longest caption (uneven, from half of it). amp:
            bfloat16. vocabulary: of the text tower. device, options: where, and further arguments
            of the Pretrainer. boxes: of each image, for objectives that read them; 0: the image
            and its caption alone.
    """

    def __init__(
        self,
        objective: dict[str, Any],
        arch: str = "vit_tiny_patch16_224",
        text: tuple[int, int, int] = (192, 6, 3),
        size: int = 224,
        batch: int = 64,
        tokens: int = 32,
        amp: bool = True,
        vocabulary: int = VOCABULARY,
        device: str = "cpu",
        overrides: dict[str, Any] | None = None,
        boxes: int = 0,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        MessageHub.get_current_instance().update_info("iter", 0)
        width, layers, heads = text
        self.model = Pretrainer(
            vision=dict(arch=arch, img_size=size, overrides=overrides),
            text=dict(
                vocab_size=vocabulary, width=width, layers=layers, heads=heads, max_tokens=tokens
            ),
            objective=dict(objective),
            width=min(512, width),
            **options,
        ).to(device)
        self.model.train()
        self.wrapper = build_optim_wrapper(
            self.model,
            dict(
                type="sparc.GuardedOptimWrapper",
                amp=amp,
                max_norm=1.0,
                constructor="GroupedConstructor",
                optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.2, fused=True),
            ),
        )
        self.batch = with_boxes(pairs(batch, size, tokens), boxes).to(device)
        self.size = batch

    def __call__(self, batch: Batch | None = None) -> dict[str, torch.Tensor]:
        """One step on `batch`, default its own; the losses."""
        return self.model.train_step(self.batch if batch is None else batch, self.wrapper)


def operations(step: Step) -> int:
    """Floating-point operations of a step, forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def pairs(count: int, size: int, tokens: int) -> Batch:
    """Random pixels (uint8) and captions of half to full length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(max(2, tokens // 2), tokens + 1, (count, 1), generator=generator)
    mask = torch.arange(tokens) < lengths
    special = torch.zeros_like(mask)
    special[:, 0] = True
    ids = torch.randint(1, VOCABULARY, (count, tokens), generator=generator) * mask
    image = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    names = [str(n) for n in range(count)]
    return Batch(image=image, ids=ids, mask=mask, special=special, key=names, caption=names)


def with_boxes(batch: Batch, count: int) -> Batch:
    """`batch` and what X-VLM, UNITER, Oscar and Kaleido-BERT read besides: `count` boxes of each
    image, with texts as long as a third of its caption, classes and tags; words of one token.
    """
    generator = torch.Generator().manual_seed(1)
    pairs_B, tokens = batch.ids.shape
    place = torch.arange(tokens)
    batch.word = torch.where(batch.mask & ~batch.special, place, -1)
    batch.draw = torch.arange(pairs_B)
    batch.image_id = batch.product_id = torch.arange(pairs_B)
    box = torch.rand(pairs_B, count, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    batch.saliency = whole.expand(pairs_B, -1)
    there = torch.ones(pairs_B, count, dtype=torch.bool)

    def texts(x: torch.Tensor, fill: int | bool) -> torch.Tensor:
        short = x[:, None].expand(-1, count, -1).clone()
        short[..., tokens // 3 :] = fill
        return torch.cat([x[:, None], short], dim=1)

    mask, special = texts(batch.mask, False), texts(batch.special, False)
    batch.concepts = Concepts(
        torch.cat([whole.expand(pairs_B, 1, 4), box], dim=1),
        texts(batch.ids, 0),
        mask,
        special,
        texts(batch.word, -1),
        torch.ones(pairs_B, 1 + count, dtype=torch.bool),
        torch.arange(pairs_B * (1 + count)).view(pairs_B, -1),
    )
    labels = torch.randint(1, 20, there.shape, generator=generator)
    batch.regions = Regions(box, there, labels)
    tags, of_tag = batch.ids[:, : max(2, count)], batch.mask[:, : max(2, count)]
    batch.tags = Tags(tags, of_tag, torch.where(of_tag, place[: tags.shape[1]], -1), batch.draw)
    return batch
