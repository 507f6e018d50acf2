"""The states of the random generators of every rank travel in the checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

from sparc_pretrain.distributed import gather_objects, rank, world_size
from sparc_pretrain.registry import HOOKS

KEY = "random_state"


def snapshot() -> dict[str, Any]:
    """The generator states of this process, as tensors and plain types."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Set the generators of this process to a `snapshot`; CUDA only when both have it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    keys = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))
    # A checkpoint may have been loaded onto the GPU; generator states live on the CPU.
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def base_seed(runner: Runner) -> int:
    """The seed of the run, which mmengine has already moved on by the rank with
    ``randomness.diff_rank_seed``.
    """
    apart = (runner.cfg.get("randomness") or {}).get("diff_rank_seed", False)
    return runner.seed - rank() if apart else runner.seed


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Saves and restores the generators of every rank, and keeps validation from moving them.

    Ranks begin training with generators of their own, or all would drop the same paths and patches;
    until then they draw the same, so that they build the same model.

    Restored between the making of the training iterator (which draws a seed for its workers) and
    the first batch; in an epoch-based loop before the iterator is made, as in the run that went on.
    Not covered: transforms that draw from a worker's global generator in an iteration-based loop;
    seed those by (seed, sample).
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.gathered: list[dict[str, Any]] | None = None
        self.loaded: dict[str, Any] | None = None
        self.before_validation: dict[str, Any] | None = None

    def gather_state(self, runner: Runner) -> None:
        """Called on every rank before a checkpoint is saved."""
        if self.loaded is not None and self.loaded["iter"] == runner.iter:
            self.gathered = self.loaded["ranks"]  # resumed, and nothing has been drawn since
        else:
            self.gathered = gather_objects(self.before_validation or snapshot())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the gathered states into the checkpoint (rank 0)."""
        if self.gathered is None and world_size() == 1:
            self.gather_state(runner)
        if self.gathered is not None:
            checkpoint[KEY] = {"iter": checkpoint["meta"]["iter"], "ranks": self.gathered}
        self.gathered = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the states until training starts."""
        self.loaded = checkpoint.get(KEY)

    def before_train(self, runner: Runner) -> None:
        """The model is built and has its weights."""
        if rank():
            set_random_seed(base_seed(runner) + rank())

    def before_train_epoch(self, runner: Runner) -> None:
        """Choose the moment to restore at."""
        if self.loaded is None:
            return
        if self.loaded["iter"] != runner.iter:  # weights were loaded, but nothing is resumed
            self.loaded = None
            return
        batches = getattr(runner.train_loop, "dataloader_iterator", None)
        if hasattr(batches, "_ensure_iterator") and hasattr(batches, "_next_data"):
            self._restore_before_first_batch(runner, batches)
        elif batches is None and not runner.train_dataloader.persistent_workers:
            self._restore(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The last moment, for loops with an iterator of another kind."""
        if self.loaded is not None:
            self._restore(runner)

    def before_val(self, runner: Runner) -> None:
        """Remember the states: a resumed run does not repeat this validation."""
        self.before_validation = snapshot()

    def after_val(self, runner: Runner) -> None:
        """Continue as if there had been no validation."""
        if self.before_validation is not None:
            restore(self.before_validation)
            self.before_validation = None

    def _restore_before_first_batch(self, runner: Runner, batches: Any) -> None:
        fetch = batches._next_data

        def first_batch(skip_loading: bool = False) -> Any:
            if not skip_loading:
                batches._ensure_iterator()
                del batches._next_data  # the instance's; the class's own takes over
                self._restore(runner)
            return fetch(skip_loading=skip_loading)

        batches._next_data = first_batch

    def _restore(self, runner: Runner) -> None:
        states, self.loaded = self.loaded["ranks"], None
        if len(states) != world_size():
            runner.logger.warning(
                f"the checkpoint has the random states of {len(states)} ranks, this run has "
                f"{world_size()}: dropout will differ from the run that was interrupted"
            )
        if rank() < len(states):
            restore(states[rank()])
