"""Training a small causal language model on sentences: the captioner's default where no pretrained
one can be had.

The order of the data is a function of (seed, step), and the state is written whole or not at all:
a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sparc_pretrain.atomic_file import atomic_folder, atomic_write
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.engine import precision
from sparc_pretrain.engine.plain_data import load
from transfer.captioning.language_model.loading import wrap

STATE = "state.pth"


@dataclass(frozen=True)
class Plan:
    """What is trained, and for how long: until `steps` or `minutes`, whichever comes first.

    `model`: a transformers config, `dict(model_type=..., ...)`. `batch` blocks of `block` tokens a
    step; `lr` is the peak, after `warmup` steps; `amp`: bfloat16 autocast.
    """

    model: dict[str, Any]
    steps: int = 3000
    minutes: float = math.inf
    batch: int = 16
    block: int = 128
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.1
    seed: int = 0
    amp: bool = False


def learning_rate(plan: Plan, step: int, minutes: float) -> float:
    """Linear warm-up, then half a cosine down to a tenth over the share of steps or minutes used
    up, whichever is larger.
    """
    used = min(1.0, max(step / plan.steps, minutes / plan.minutes))
    cosine = 0.55 + 0.45 * math.cos(math.pi * used)
    return plan.lr * min(1.0, (step + 1) / max(plan.warmup, 1)) * cosine


def batch_of(blocks_NT: Tensor, plan: Plan, step: int) -> Tensor:
    """The blocks [B,T] of a step: each epoch is a permutation of its own."""
    count = len(blocks_NT)
    places = range(step * plan.batch, (step + 1) * plan.batch)
    rows = []
    for epoch in sorted({place // count for place in places}):
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        rows += [order[place % count] for place in places if place // count == epoch]
    return blocks_NT[torch.stack(rows)]


def next_token_loss(model: PreTrainedModel, blocks_BT: Tensor) -> Tensor:
    """Mean cross-entropy per token, natural logarithm."""
    logits = model(input_ids=blocks_BT, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), blocks_BT[:, 1:].flatten())


def build(plan: Plan, tokenizer: Tokenizer) -> PreTrainedModel:
    """The plan's language model with random weights."""
    torch.manual_seed(plan.seed)
    options = dict(plan.model)
    config = AutoConfig.for_model(
        options.pop("model_type"),
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        **options,
    )
    return AutoModelForCausalLM.from_config(config)


def train(
    plan: Plan,
    tokenizer: Tokenizer,
    blocks_NT: Tensor,
    held_MT: Tensor,
    folder: Path,
    say: Callable[[str], None],
    resume: bool = False,
    save_seconds: float = 60.0,
    device: str = "cpu",
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train, writing the state to `folder` every `save_seconds`; returns the model and a record of
    what was done: steps, minutes, tokens, validation loss per token and perplexity.

    Raises ValueError for a state of another plan or other text.
    """
    model = build(plan, tokenizer).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.lr, betas=(0.9, 0.95), weight_decay=plan.weight_decay
    )
    wanted = fingerprint(plan, tokenizer, blocks_NT)
    step, before = 0, 0.0
    path = folder / STATE
    if resume and path.is_file():
        state = load(path, device)
        if state.get("plan") != wanted:
            raise ValueError(f"{path} is of another plan or other text: leave --resume out")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        step, before = state["step"], state["minutes"]
        say(f"resumed at step {step}")

    def save() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "plan": wanted, "step": step, "minutes": minutes, "model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "random": torch.get_rng_state(),
        }  # fmt: skip
        atomic_write(path, lambda file: torch.save(state, file))

    if plan.amp:
        precision.advise(torch.device(device).type)
    start = saved = time.monotonic()
    minutes, shown, total = before, step, 0.0
    model.train()
    while step < plan.steps and minutes < plan.minutes:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step, minutes)
        with torch.autocast(device, torch.bfloat16, enabled=plan.amp):
            loss = next_token_loss(model, batch_of(blocks_NT, plan, step).to(device))
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} at step {step}: lower --lr")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, total = step + 1, total + loss.item()
        minutes = before + (time.monotonic() - start) / 60
        if step % 50 == 0 or step == plan.steps:
            pace = step * plan.batch * plan.block / max(minutes * 60, 1e-9)
            say(
                f"step {step}/{plan.steps}, {minutes:.1f} min, loss {total / (step - shown):.3f},"
                f" {pace:,.0f} tokens/s"
            )
            shown, total = step, 0.0
        if time.monotonic() - saved >= save_seconds:
            save()
            saved = time.monotonic()
    save()
    loss = validate(model, held_MT.to(device), plan)
    record = dict(steps=step, minutes=round(minutes, 2), tokens=step * plan.batch * plan.block)
    record |= dict(validation_loss=round(loss, 4), perplexity=round(math.exp(loss), 2))
    return model, record | dict(parameters=sum(p.numel() for p in model.parameters()))


@torch.no_grad()
def validate(model: PreTrainedModel, held_MT: Tensor, plan: Plan) -> float:
    """Mean loss per token on the held-out blocks."""
    model.eval()
    parts = held_MT.split(plan.batch)
    losses = [next_token_loss(model, part).item() * len(part) for part in parts]
    return sum(losses) / len(held_MT)


def write_folder(
    out: Path, model: PreTrainedModel, tokenizer: Tokenizer, record: dict[str, Any]
) -> None:
    """A folder that transformers reads, whole or not at all; an older one gives way."""
    with atomic_folder(out) as draft:
        model.to("cpu").save_pretrained(draft)
        wrap(tokenizer).save_pretrained(draft)
        text = json.dumps(record, indent=1) + "\n"
        (draft / "training.json").write_text(text, encoding="utf-8")


def fingerprint(plan: Plan, tokenizer: Tokenizer, blocks_NT: Tensor) -> str:
    """Says whether a state belongs to this training; the lengths of a run may be changed."""
    parts = {k: v for k, v in asdict(plan).items() if k not in ("steps", "minutes")}
    said = json.dumps(parts, sort_keys=True) + tokenizer.to_json()
    return hashlib.sha256(said.encode() + blocks_NT.numpy().tobytes()).hexdigest()
