"""Pretrainer: Batch -> Features -> losses -> one optimizer step."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import MEAN, STD, DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import full_precision
from sparc_pretrain.pretraining import starting_weights
from sparc_pretrain.pretraining.accumulation import Losses, accumulated_step, add_up, over_ranks
from sparc_pretrain.pretraining.batch_features import features_of
from sparc_pretrain.pretraining.onlookers import Guide, Teacher
from sparc_pretrain.registry import MODEL_WRAPPERS, MODELS, OBJECTIVES, parameters_of
from sparc_pretrain.step_before import StepBefore
from sparc_pretrain.towers.lengths import caption_lengths
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.types import Batch, Features, Views

# Which features each adapter makes: it is trained when the objective reads one of them.
MADE_BY = {
    "g_v": {"image", "patches", "concept"},
    "h_v": {"image", "concept"},
    "g_t": {"text", "tokens", "words", "concept_text"},
}


class BatchToDevice(BaseDataPreprocessor):
    """Moves a Batch to the model's device; pixels stay uint8 until the encoder normalises them
    there.
    """

    def forward(self, data: Batch, training: bool = False) -> Batch:
        """Batch -> the same Batch on the device."""
        return data.to(self.device, non_blocking=True)


@MODELS.register_module()
class Pretrainer(BaseModel):
    """A dual encoder under an objective, as mmengine's Runner trains it.

    Adapters that make none of the objective's `coupled_features` and `paired_features` are frozen:
    the weights drawn for them stay, and no process waits for their gradient.

    Args:
        vision, text: arguments of VisionTower and TextTower. objective: config of a registered
            objective; arguments of it that the towers decide are filled in, see `fill_in`.
        width, global_head, mean, std: of the DualEncoder.
        tokenizer: tokenizer.json that travels in the run folder.
        accumulate: micro-batches per step; the gradients are those of one big batch, see
            `accumulation`.
        grad_checkpointing: vision blocks recomputed in the backward pass: True (all) or how many.
        init_from: a run folder to start from, of the same towers and vocabulary. locked: 'vision'
            or 'text', a tower that is not trained (LiT, arXiv 2111.07991). seed: of objectives that
            draw. guide, guide_reading: a frozen run that says which words and patches belong
            together, see `onlookers.Guide`.

    Raises:
        ValueError: an unknown locked tower, a number in the objective's config that the towers
            contradict, or weights of `init_from` that do not fit.
    """

    def __init__(
        self,
        vision: dict[str, Any],
        text: dict[str, Any],
        objective: dict[str, Any],
        width: int = 512,
        global_head: bool = True,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
        tokenizer: str | None = None,
        accumulate: int = 1,
        grad_checkpointing: bool | int = False,
        init_from: str | None = None,
        locked: str | None = None,
        seed: int = 0,
        guide: str | None = None,
        guide_reading: str = "attention",
    ) -> None:
        super().__init__(BatchToDevice())
        if locked not in (None, "vision", "text"):
            raise ValueError(f"locked={locked!r}: use 'vision', 'text' or nothing")
        words = Tokenizer.load(tokenizer) if tokenizer else None
        self.encoder = DualEncoder(
            VisionTower(**vision), TextTower(**text), width, global_head, mean, std, words
        )
        self.objective_config = fill_in(
            objective,
            width=width,
            vision_width=self.encoder.vision.width,
            text_width=self.encoder.text.width,
            vocab_size=self.encoder.text.vocab_size,
            max_tokens=self.encoder.text.max_tokens,
            patch=self.encoder.vision.patch,
            seed=seed,
            **(dict(mask_id=words.mask_id, word_ids=list(words.word_ids)) if words else {}),
            **(dict(target="frozen") if init_from and "target" not in objective else {}),
        )
        self.objective: Objective = OBJECTIVES.build(dict(self.objective_config))
        trained = {*self.objective.coupled_features, *self.objective.paired_features}
        for adapter, made in MADE_BY.items():
            if not made & trained:
                getattr(self.encoder.adapters, adapter).requires_grad_(False)
        if not self.objective.vision_trained:
            self.encoder.vision.requires_grad_(False)
        self.teacher: Teacher | None = None
        self.guide = None
        if guide or guide_reading == "boxes":
            self.guide = Guide(guide, guide_reading, words)
        if self.objective_config.get("target") == "frozen" and not init_from:
            raise ValueError("model.objective.target='frozen' is the tower of model.init_from")
        self.accumulate = accumulate
        self.told = StepBefore()
        self.encoder.vision.grad_checkpointing = grad_checkpointing
        self.init_from, self.locked = init_from, locked
        if locked:
            getattr(self.encoder, locked).requires_grad_(False)

    def init_weights(self) -> None:
        """Take the weights of `init_from`; called by the Runner before a checkpoint is resumed.

        Raises as `starting_weights.load`.
        """
        if self.init_from:
            starting_weights.load(self.encoder, self.init_from)
            starting_weights.load_objective(self.objective, self.init_from)
            if self.objective_config.get("target") == "frozen":
                self.teacher = Teacher(self.encoder)

    def train(self, mode: bool = True) -> Pretrainer:
        """Training mode; a locked tower stays in eval mode."""
        super().train(mode)
        if self.locked:
            getattr(self.encoder, self.locked).eval()
        return self

    def forward(self, batch: Batch, mode: str = "loss", **kwargs) -> Losses | Features:
        """mode 'loss': Batch -> losses; 'part': one micro-batch, see `_part`; 'tensor': Batch ->
        Features.
        """
        if mode == "part":
            return self._part(batch, **kwargs)
        features = self.features(batch)
        return features if mode == "tensor" else self.objective(features, batch)

    def features(self, batch: Batch) -> Features:
        """What the objective sees of a batch, its views and concepts included."""
        return features_of(self.encoder, self.objective, batch)

    @torch.no_grad()
    def with_views(self, batch: Batch) -> Batch:
        """The rank's whole batch with what the objective draws for the Runner's current step."""
        step = MessageHub.get_current_instance().get_info("iter", 0)
        if self.guide:
            batch = replace(batch, views=Views(drawn=self.guide.drawn(batch)))
        views = self.objective.views(batch, step)
        if self.teacher and views is not None:
            views = self.teacher.add(batch, views)
        return replace(batch, views=views)

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
        """One optimizer step of all processes; the losses are those of the global batch, on a GPU
        of the step before.
        """
        return self.told(over_ranks(self.optimize(self, data, optim_wrapper)))

    def optimize(self, model: nn.Module, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
        """One optimizer step; `model` is this module or its distributed wrapper."""
        batch = self.with_views(self.data_preprocessor(data, True))
        if self.accumulate > 1:
            known = data.length  # to count them may mean to wait for a device
            lengths = torch.tensor(known) if known else caption_lengths(data.mask).cpu()
            return accumulated_step(self, model, batch, lengths, optim_wrapper)
        with optim_wrapper.optim_context(model):
            losses = model(batch, mode="loss")
        loss, log = add_up(losses)
        optim_wrapper.update_params(loss)
        return log

    def _part(
        self,
        part: Batch,
        feature_grads: dict[str, Tensor],
        head_grads: dict[str, Tensor],
        whole: Batch,
    ) -> Losses:
        """Second pass over one micro-batch of `accumulated_step`.

        `surrogate` has the gradient of the coupled terms: with respect to the towers through
        `feature_grads` of this micro-batch's features, and with respect to the objective's own
        parameters through `head_grads`, which the last micro-batch is given.
        """
        features = self.features(part)
        losses = dict(self.objective.paired(features, part, whole))
        pairs = [(getattr(features, name), grad) for name, grad in feature_grads.items()]
        pairs += [(self.objective.get_parameter(name), grad) for name, grad in head_grads.items()]
        losses["surrogate"] = sum((full_precision(value) * grad).sum() for value, grad in pairs)
        return losses

    def run_config(self, samples_seen: int) -> dict[str, Any]:
        """config.json of this model's run folder."""
        self.encoder.objective_config = self.objective_config
        made = {**self.encoder.config(), "samples_seen": samples_seen}
        return made if self.objective.vision_trained else {**made, "vision_trained": False}

    def run_weights(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The run folder's tensors, vision.*, text.*, adapters.*, objective.*, of a state dict of
        this class (default: the model's own).
        """
        state = self.state_dict() if state is None else state
        return {name.removeprefix("encoder."): value for name, value in state.items()}


@MODEL_WRAPPERS.register_module()
class DistributedPretrainer(MMDistributedDataParallel):
    """DistributedDataParallel around a Pretrainer: gradients are averaged once per step, where they
    lie in the buckets that travel; buffers are constants and do not. options: torch's.
    """

    def __init__(self, module: Pretrainer, **options: Any) -> None:
        taken = inspect.signature(DistributedDataParallel.__init__).parameters
        # torch 2.14 has renamed it
        buffers = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in taken)
        super().__init__(module, **{buffers: False, "gradient_as_bucket_view": True, **options})

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
        """`Pretrainer.train_step` through this wrapper."""
        return self.module.told(over_ranks(self.module.optimize(self, data, optim_wrapper)))


def fill_in(objective: dict[str, Any], **known: Any) -> dict[str, Any]:
    """The config of an objective with those of the `known` numbers filled in that it takes and its
    config does not give.

    Raises:
        ValueError: it gives another number.
    """
    kind = OBJECTIVES.get(objective["type"])
    taken = parameters_of(kind)[0] if kind else {}
    for name, value in known.items():
        if name in taken and objective.get(name, value) != value:
            raise ValueError(
                f"model.objective.{name}={objective[name]}, but the model has {value}: leave it out"
            )
    return {**objective, **{name: value for name, value in known.items() if name in taken}}
