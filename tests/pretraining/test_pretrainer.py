"""One optimizer step, however it is cut up: micro-batches and processes equal one big batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.engine.optim import GuardedOptimWrapper
from sparc_pretrain.pretraining import starting_weights
from sparc_pretrain.pretraining.accumulation import by_length
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.types import Batch, Features
from sparc_pretrain.zeroshot import encode
from tests import fused_toy  # noqa: F401  registers it
from tests.models import TEXT, VISION, batch, pretrainer, saved

ROOT = Path(__file__).parents[2]
OBJECTIVES = {
    "sparc": dict(type="Sparc"),
    "sparc by token": dict(type="Sparc", reduction="token", skip_special=True),
    "sparc with two temperatures": dict(type="Sparc", local_temperature=True),
    "sparc, shuffled": dict(type="Sparc", shuffle=True, reduction="token"),
    "sparc, local only": dict(type="Sparc", global_weight=0, alignment="softmax"),
    "sparc, image contrast": dict(
        type="Sparc", image_contrast=1.0, token_context="both", same_token="ignore"
    ),
    "sparc, image contrast alone by token": dict(
        type="Sparc", global_weight=0, local_weight=0, image_contrast=1.0, reduction="token"
    ),
    "sparc, image contrast of captions": dict(
        type="Sparc", image_contrast=1.0, contrast_of="captions", reduction="token"
    ),
    "sparc, image contrast, shuffled": dict(type="Sparc", image_contrast=1.0, shuffle=True),
    "clip": dict(type="Clip"),
    "filip": dict(type="Filip"),
    "filip, in blocks of one image": dict(type="Filip", block=1),
    "clip+filip with dropping": dict(type="Filip", global_weight=0.5, drop=0.2),
    "pacl": dict(type="Pacl"),
    "gloria": dict(type="Gloria"),
    "gloria, in blocks of one image": dict(type="Gloria", block=1),
    "mgca": dict(type="Mgca", local_width=8, prototypes=5),
    "siglip": dict(type="Siglip"),
    "fused": dict(type="FusedToy"),
}


def data(dtype: torch.dtype) -> Batch:
    """16 pairs; the second half, a second process's share, has the shorter captions."""
    made = batch(16, dtype=dtype)
    made.mask[8:, 6:] = False
    made.key[3] = made.key[2]  # two captions of one image
    made.ids *= made.mask
    return made


class Recorder(GuardedOptimWrapper):
    """Keeps the gradients of the step instead of changing the weights."""

    def step(self, **kwargs) -> None:
        self.gradients = [
            None if p.grad is None else p.grad.clone()
            for group in self.optimizer.param_groups
            for p in group["params"]
        ]


def gradients(objective: dict, accumulate: int, dtype: torch.dtype, drop: float = 0.0):
    torch.manual_seed(0)
    model = pretrainer(dict(objective), accumulate=accumulate).to(dtype)
    if drop:
        for block in model.encoder.vision.net.blocks:
            block.mlp.drop1 = nn.Dropout(drop)
    recorder = Recorder(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    model.train()
    torch.manual_seed(1)
    log = model.train_step(data(dtype), recorder)
    return log, recorder.gradients


def assert_close(wanted: list, found: list, tolerance: float) -> None:
    """Whole gradient and each parameter's, relative; a parameter's noise floor is the whole's."""
    assert [g is None for g in wanted] == [g is None for g in found]
    wanted = [g for g in wanted if g is not None]
    found = [g for g in found if g is not None]
    errors = torch.stack([(a - b).norm() for a, b in zip(wanted, found, strict=True)])
    norms = torch.stack([a.norm() for a in wanted])
    assert errors.norm() <= tolerance * norms.norm()
    assert (errors <= 10 * tolerance * norms + tolerance * norms.norm() / 10).all()


def dtype_of(name: str) -> torch.dtype:
    return getattr(torch, name)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_eight_micro_batches_equal_one_batch(objective, dtype, tolerance):
    whole_log, whole = gradients(objective, 1, dtype)
    parts_log, parts = gradients(objective, 8, dtype)
    assert parts_log["loss"].item() == pytest.approx(whole_log["loss"].item(), rel=tolerance)
    assert_close(whole, parts, tolerance)


def test_dropout_draws_the_same_in_both_passes_of_an_accumulated_step():
    """With dropout the cached embeddings are those of the second pass: two runs agree exactly."""
    _, first = gradients(OBJECTIVES["clip"], 4, torch.float64, drop=0.3)
    _, second = gradients(OBJECTIVES["clip"], 4, torch.float64, drop=0.3)
    for a, b in zip(first, second, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    # and the gradient is that of the loss under exactly those draws: of one batch in four chunks,
    # the longest captions first
    made = data(torch.float64)
    made = made.rows(by_length(made.mask.sum(dim=1), 4)[0])
    torch.manual_seed(0)
    model = pretrainer(dict(OBJECTIVES["clip"])).to(torch.float64).train()
    for block in model.encoder.vision.net.blocks:
        block.mlp.drop1 = nn.Dropout(0.3)
    torch.manual_seed(1)
    parts = [model(part, mode="tensor") for part in made.chunk(4)]
    names = [n for n, value in vars(parts[0]).items() if isinstance(value, torch.Tensor)]
    joined = Features(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names})
    model.objective.coupled(joined, made)["global_loss"].backward()
    wanted = [p.grad for p in model.parameters()]
    for a, b in zip(wanted, first, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="cannot be split"):
        batch(6).chunk(4)


WORKER = """
import json, sys, torch, torch.distributed as dist
from sparc_pretrain.pretraining.accumulation import by_length
from sparc_pretrain.pretraining.pretrainer import DistributedPretrainer
from sparc_pretrain.distributed import (
    gather, gather_objects, gather_own_columns, leave, rank, world_size
)
sys.path.insert(0, {root!r})
from tests.models import pretrainer
from tests.pretraining.test_pretrainer import Recorder, data

dist.init_process_group("gloo")
results = {{}}
for name, objective, accumulate, dtype in {cases!r}:
    torch.manual_seed(0)
    dtype = getattr(torch, dtype)
    model = pretrainer(dict(objective), accumulate=accumulate).to(dtype).train()
    wrapped = DistributedPretrainer(module=model, device_ids=None)
    recorder = Recorder(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    own = data(dtype).chunk(world_size())[rank()]
    longest = int(own.mask.sum(dim=1).max())  # as the loader pads, each process its own
    assert longest == (9, 6)[rank()]
    own.ids, own.mask, own.special = (x[:, :longest] for x in (own.ids, own.mask, own.special))
    log = wrapped.train_step(own, recorder)
    loss = log["loss"].double() / world_size()
    dist.all_reduce(loss)
    results[name] = (loss.item(), [g if g is None else g.tolist() for g in recorder.gradients])
# what one rank is sent by each, in half precision: 1 + 2^-7, of terms that bfloat16 rounds to 1
half = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
(gather(half)[0] * (1 + 2**-8, 2**-8)[rank()]).sum().backward()
results["half"] = half.grad.item()
whole = torch.arange(24.0, dtype=torch.float64).view(6, 4)  # [W*b,W*c]
mine = whole[3 * rank() : 3 * rank() + 3].clone().requires_grad_()
columns = gather_own_columns(mine)
results["columns"] = bool((columns == whole[:, 2 * rank() : 2 * rank() + 2]).all())
(columns.T * columns.T.detach()).sum().backward()  # its own value; a transposed gradient
results["columns"] &= bool((mine.grad == mine).all())
results = gather_objects(results)
results = {{**results[0], **{{k: [r[k] for r in results] for k in ("half", "columns")}}}}
if rank() == 0:
    json.dump(results, open({out!r}, "w"))
dist.barrier()
leave(0)
"""


def test_two_processes_equal_one_with_and_without_micro_batches(tmp_path):
    cases = [
        (f"{name}/{accumulate}/{dtype}", objective, accumulate, dtype)
        for name, objective in OBJECTIVES.items()
        for accumulate, dtype in ((1, "float64"), (4, "float64"), (1, "float32"))
        if dtype == "float64" or name in ("sparc", "filip")
    ]
    script, out = tmp_path / "worker.py", tmp_path / "out.json"
    script.write_text(WORKER.format(cases=cases, out=str(out), root=str(ROOT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(out.read_text())
    assert results["half"][0] == 1 + 2**-7, "sums over ranks are those of float32"
    assert results["columns"] == [True, True]
    for name, objective, _, dtype in cases:
        tolerance = 1e-9 if dtype == "float64" else 1e-5
        log, wanted = gradients(objective, 1, dtype_of(dtype))
        loss, found = results[name]
        assert loss == pytest.approx(log["loss"].item(), rel=tolerance), name
        found = [None if g is None else torch.tensor(g, dtype=dtype_of(dtype)) for g in found]
        assert_close(wanted, found, tolerance)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_weight_that_is_trained_has_a_gradient_and_no_other(objective):
    """In distributed training a weight that waits for a gradient which never comes is an error."""
    torch.manual_seed(0)
    model = pretrainer(dict(objective)).train()
    losses = model(model.with_views(batch(6)))
    sum(value for key, value in losses.items() if key.endswith("_loss")).backward()
    waiting = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not waiting
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    read = {*model.objective.coupled_features, *model.objective.paired_features}
    assert frozen == (set() if "image" in read else {"h_v"})


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_an_objective_scores_images_against_captions_from_what_it_reads(objective):
    torch.manual_seed(0)
    model = pretrainer(dict(objective)).eval()
    with torch.inference_mode():
        features = model(batch(6), mode="tensor")
        kept = {*model.objective.score_features, "mask", "special"}
        blind = {f.name: None for f in fields(Features) if f.name not in kept}
        scores = model.objective.scores(features, features)
        assert torch.equal(model.objective.scores(*[replace(features, **blind)] * 2), scores)
    assert scores.shape == (6, 6) and scores.isfinite().all()
    assert scores.std() > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_run_folder_brings_back_the_objective_that_reads_it(objective, tmp_path):
    torch.manual_seed(0)
    model = pretrainer(dict(objective)).eval()
    run_folder.write(tmp_path / "run", model.run_config(0), model.run_weights(), None)
    torch.manual_seed(1)
    encoder, reader = encode.load(tmp_path / "run")
    made = batch(4)
    with torch.inference_mode():
        wanted = model(made, mode="tensor")
        found = encoder(made.image, made.ids, made.mask, made.special)
        torch.testing.assert_close(
            reader.scores(found, found), model.objective.scores(wanted, wanted)
        )


def test_the_width_of_the_shared_space_reaches_the_objective_and_the_run_folder():
    model = pretrainer(dict(type="Pacl"))
    assert model.objective.embedder.skip.in_features == 16
    assert model.run_config(0)["objective"] == {"type": "Pacl", "width": 16}
    with pytest.raises(ValueError, match=r"objective\.width=8, but the model has 16"):
        pretrainer(dict(type="Pacl", width=8))


def test_a_batch_with_no_coupled_terms_is_accumulated():
    objective = dict(type="Sparc", global_weight=0)
    assert pretrainer(objective).objective.coupled(None, None) == {}


def step_with(model, data, wrapper):
    before = [p.detach().clone() for p in model.parameters()]
    model.train()
    model.train_step(data, wrapper)
    return before, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_non_finite_step_changes_no_weight_and_is_counted(accumulate):
    torch.manual_seed(0)
    model = pretrainer(accumulate=accumulate)
    wrapper = GuardedOptimWrapper(optimizer=torch.optim.AdamW(model.parameters(), lr=0.1))
    data = batch(8)
    data.image[3] = torch.nan
    before, after = step_with(model, data, wrapper)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert wrapper.skipped_in_a_row == 1 and not wrapper.optimizer.state
    before, after = step_with(model, batch(8), wrapper)
    assert wrapper.skipped_in_a_row == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_gradient_norm_is_clipped():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    wrapper = GuardedOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0), max_norm=0.5
    )
    wrapper.update_params(model(torch.tensor([[30.0, 40.0]])).sum())
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[-0.3, -0.4]]))


def test_bfloat16_autocast_works_on_a_cpu_and_keeps_float32_weights():
    torch.manual_seed(0)
    model = pretrainer()
    wrapper = GuardedOptimWrapper(
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3), amp=True
    )
    with wrapper.optim_context(model):
        features = model(batch(4), mode="tensor")
    assert features.patches.dtype == torch.bfloat16
    losses = model.train_step(batch(4), wrapper)
    assert losses["loss"].dtype == torch.float32 and losses["loss"].isfinite()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_locked_tower_is_not_trained_and_stays_in_eval_mode():
    model = pretrainer(locked="vision").train()
    assert not model.encoder.vision.training and model.encoder.text.training
    model(batch(4))["global_loss"].backward()
    assert all(p.grad is None for p in model.encoder.vision.parameters())
    with pytest.raises(ValueError, match="locked"):
        pretrainer(locked="audio")


def test_init_from_takes_the_weights_of_the_same_objective_and_says_why_not(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(starting_weights, "print_log", lambda line, _: told.append(line))
    source = saved("Xvlm", tmp_path / "x", ["a small red star"], layers=1)
    there = run_folder.open_run(source)
    words = Tokenizer.load(source)
    text = {**TEXT, "vocab_size": words.vocab_size, "layers": 1, "max_tokens": 16}
    for layers, taken in ((2, True), (1, False)):
        fusion = dict(layers=layers, heads=2, dropout=0.0)
        torch.manual_seed(5)
        made = Pretrainer(
            vision=VISION,
            text=text,
            objective=dict(type="Xvlm", fusion=fusion),
            width=16,
            tokenizer=str(source),
            init_from=str(source),
        )
        made.init_weights()
        ours, theirs = made.objective.state_dict(), there.weights("objective.")
        same = [torch.equal(ours[k], theirs[k]) for k in ours if k.startswith("match_head.0")]
        assert same == [taken, taken]
        said = "goes on with its weights" if taken else "starts anew"
        assert any(f"Xvlm {said}" in line for line in told)


def test_init_from_takes_all_weights_of_a_run_and_refuses_others(tmp_path):
    source = pretrainer()
    source.encoder.save_pretrained(tmp_path / "run")
    model = pretrainer(init_from=str(tmp_path / "run"))
    model.init_weights()
    for a, b in zip(source.encoder.parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    other = pretrainer(init_from=str(tmp_path / "run"), global_head=False)
    with pytest.raises(ValueError, match="init_from"):
        other.init_weights()


def test_a_single_stream_takes_the_vision_tower_of_a_run_that_has_words_of_its_own(tmp_path):
    dual = saved("Xvlm", tmp_path / "dual", ["a small red star"], layers=1)
    single = saved("Uniter", tmp_path / "single", ["a green house by a lake"])
    assert Tokenizer.load(single).to_json() != Tokenizer.load(dual).to_json()

    def started(source: Path, layers: int = 0) -> Pretrainer:
        torch.manual_seed(3)
        text = {**TEXT, "vocab_size": Tokenizer.load(single).vocab_size, "max_tokens": 16}
        parts = dict(width=16, tokenizer=str(single), init_from=str(source))
        fusion = dict(layers=2, heads=2, dropout=0.0)
        objective = dict(type="Xvlm" if layers else "Uniter", fusion=fusion)
        return Pretrainer(VISION, text | {"layers": layers}, objective, **parts)

    made = started(dual)
    before = {k: v.clone() for k, v in made.encoder.state_dict().items()}
    made.init_weights()
    after, there = made.encoder.state_dict(), run_folder.open_run(dual).weights()
    for name, value in after.items():
        alike = there if name.startswith("vision.") else before
        assert torch.equal(value, alike[name]), name
    assert not torch.equal(after["vision.net.pos_embed"], before["vision.net.pos_embed"])
    made = started(single)  # of its own kind it takes words and fusion too
    made.init_weights()
    weights = run_folder.open_run(single).weights()
    for name, value in made.encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name
    with pytest.raises(ValueError, match="another vocabulary"):
        started(dual, layers=1).init_weights()


def test_a_last_stage_at_a_higher_resolution_and_with_longer_captions_starts_from_the_run(tmp_path):
    source = pretrainer()
    source.encoder.save_pretrained(tmp_path / "run")
    parts = dict(objective=dict(type="Sparc"), width=16, init_from=str(tmp_path / "run"))
    larger = Pretrainer({**VISION, "img_size": 48}, {**TEXT, "max_tokens": 14}, **parts)
    table = larger.encoder.text.net.embeddings.position_embedding.weight
    new = table[10:].detach().clone()
    larger.init_weights()
    ours, theirs = larger.encoder.vision.net.pos_embed, source.encoder.vision.net.pos_embed
    wanted = resample_abs_pos_embed(theirs, [6, 6], [4, 4], 0)
    assert ours.shape[1] == 36 and torch.equal(ours, wanted)
    there = source.encoder.text.net.embeddings.position_embedding.weight
    assert torch.equal(table[:10], there) and torch.equal(table[10:], new)
    image = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(
        larger.encoder.eval().encode_image(image), source.encoder.eval().encode_image(image)
    )
    with pytest.raises(ValueError, match=r"reads 10 tokens.*max_tokens=8: set 10 or more"):
        Pretrainer(VISION, {**TEXT, "max_tokens": 8}, **parts).init_weights()
    with pytest.raises(ValueError, match=r"model\.text\.width=\d+ data\.max_tokens=10$"):
        Pretrainer(VISION, {**TEXT, "width": 8, "max_tokens": 8}, **parts).init_weights()
    heads = {**VISION, "overrides": {**VISION["overrides"], "num_heads": 3}}
    with pytest.raises(ValueError, match="vision heads 2 there, 3 here"):
        Pretrainer(heads, TEXT, **parts).init_weights()
