"""Ranks build one model and then draw each for itself."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparc_pretrain.engine import random_state
from sparc_pretrain.engine.random_state import RandomStateHook, base_seed, restore, snapshot


def drawn_by(rank: int, monkeypatch: pytest.MonkeyPatch, apart: bool = False) -> tuple:
    """What a rank draws after it has built a model under seed 7, and what it drew for the model."""
    monkeypatch.setattr(random_state, "rank", lambda: rank)
    seed = 7 + rank if apart else 7  # what mmengine's set_random_seed makes of diff_rank_seed
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    model = torch.rand(1).item()
    runner = SimpleNamespace(seed=seed, cfg={"randomness": dict(seed=7, diff_rank_seed=apart)})
    assert base_seed(runner) == 7
    RandomStateHook().before_train(runner)
    return model, (torch.rand(1).item(), np.random.rand(), random.random())


def test_ranks_build_one_model_and_drop_other_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = snapshot()
    models, draws = zip(*(drawn_by(rank, monkeypatch) for rank in range(4)), strict=True)
    assert len(set(models)) == 1
    for generator in zip(*draws, strict=True):
        assert len(set(generator)) == 4
    restore(kept)


def test_what_was_loaded_is_saved_again_until_training_has_gone_on() -> None:
    kept, hook, runner = snapshot(), RandomStateHook(), SimpleNamespace(iter=6)
    torch.manual_seed(5)
    ended = dict(meta=dict(iter=6))
    hook.before_save_checkpoint(runner, ended)
    torch.manual_seed(7)  # a new process, resumed at the end
    hook.after_load_checkpoint(runner, ended)
    again = dict(meta=dict(iter=6))
    hook.gather_state(runner)
    hook.before_save_checkpoint(runner, again)
    assert again["random_state"]["ranks"] is ended["random_state"]["ranks"]
    hook.before_train_iter(runner, 0)
    torch.manual_seed(9)
    hook.before_save_checkpoint(runner, later := dict(meta=dict(iter=7)))
    hook.after_load_checkpoint(SimpleNamespace(iter=0), ended)  # weights alone: nothing is resumed
    hook.before_save_checkpoint(SimpleNamespace(iter=0), first := dict(meta=dict(iter=0)))
    for made in (later, first):
        torch.set_rng_state(made["random_state"]["ranks"][0]["torch"])
        assert torch.initial_seed() == 9
    restore(kept)


def test_a_single_process_goes_on_where_the_model_left_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = snapshot()
    _, (first, *_) = drawn_by(0, monkeypatch)
    torch.manual_seed(7)
    torch.rand(1)
    assert torch.rand(1).item() == first
    restore(kept)


def test_the_seed_of_a_run_is_one_for_all_ranks_with_diff_rank_seed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint of rank 0 says seed 7; rank 1 has seed 8 and must not be refused."""
    kept = snapshot()
    draws = [drawn_by(rank, monkeypatch, apart=True)[1] for rank in range(2)]
    assert draws[0] != draws[1]
    restore(kept)
