"""A training run of a second on CPU, with everything that makes resuming hard: dropout, EMA, AdamW,
warm-up, validation, workers. Not a test; the tests of this folder start it, also in children.
"""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import uuid
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, METRICS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from sparc_pretrain.command import launcher
from sparc_pretrain.command.error_hints import explain
from sparc_pretrain.distributed import rank
from sparc_pretrain.engine import mmengine_patches
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook

BATCH = 4
SECONDS = 60
GRACE = 20


class Stop(Exception):
    """A crash of the run that leaves the process alive."""


class Numbers(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        return {"x": torch.randn(8, generator=generator), "index": index}


class ToyModel(BaseModel):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, width), nn.Dropout(0.3), nn.BatchNorm1d(width), nn.Linear(width, 1)
        )

    def forward(self, x, index, mode="tensor"):
        if mode == "loss":
            return {"loss": self.net(x).square().mean() + 0.1 * self.net(x).mean()}
        return [{"value": v} for v in self.net(x).flatten().tolist()]


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        torch.rand(3)  # an evaluation that moves the generator
        self.results += [sample["value"] for sample in data_samples]

    def compute_metrics(self, results):
        return {"value": sum(results) / len(results)}


@HOOKS.register_module(force=True)
class ToyHook(Hook):
    """Writes down every step, and does what a test asks for at a given step or moment."""

    priority = "LOWEST"

    def __init__(
        self, stop=None, signals=None, crash=None, limit=None, fail=None, nan=None, sends=None
    ) -> None:
        self.stop, self.signals = stop, signals or {}
        self.crash, self.limit = crash, limit
        self.fail, self.nan, self.sends = fail, nan, sends

    def before_run(self, runner):
        self._signal("start")

    def before_save_checkpoint(self, runner, checkpoint):
        self._signal(f"save {checkpoint['meta']['iter']}")

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        step = runner.iter + 1
        if self.crash and step == self.crash[0]:
            for hook in runner.hooks:  # else the save before it may be the one that is hit
                if isinstance(hook, CheckpointHook):
                    hook.writer.wait()
            os.environ["SPARC_CRASH_AT"] = self.crash[1]
        if self.limit and step == self.limit[0]:
            import resource

            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit[1], hard))
        if self.fail == (rank(), step):
            raise OSError(f"the disk of rank {rank()} is gone")
        if self.nan == (rank(), step):
            data_batch["x"].fill_(float("nan"))
        self._signal(f"step {step}")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = runner.iter + 1
        record = {
            "step": step,
            "index": [int(i) for i in data_batch["index"]],
            "loss": outputs["loss"].item().hex(),
            "weights": weights_hash(runner.model),
        }
        with open(Path(runner.work_dir) / f"seen-{rank()}.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        if step == self.stop:
            raise Stop

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self._signal(f"val {runner.iter}")

    def before_leave(self, runner):
        if self.sends and rank() == 0:  # seconds that it takes, as to a slow bucket
            time.sleep(self.sends)
            (Path(runner.work_dir) / "sent.txt").write_text(str(time.monotonic()))

    def _signal(self, moment):
        for number in self.signals.get(f"workers {moment}", []):
            for child in multiprocessing.active_children():
                os.kill(child.pid, number)
        for number in self.signals.get(f"rank {rank()} {moment}", []):
            os.kill(os.getpid(), number)


def make_runner(
    work_dir,
    steps=14,
    workers=0,
    resume=None,
    load_from=None,
    validate=False,
    epochs=None,
    width=16,
    launcher="none",
    checkpoint=None,
    preempt_hook=None,
    backends=(),
    wrapper=None,
    hooks=(),
    diff_rank_seed=False,
    **toy,
) -> Runner:
    saver = dict(
        {"type": "sparc.CheckpointHook", "by_epoch": epochs is not None},
        **{"interval": 1 if epochs else 5, **(checkpoint or {})},
    )
    loader = dict(
        batch_size=BATCH,
        num_workers=workers,
        dataset=Numbers(),
        collate_fn=dict(type="default_collate"),
    )
    train = dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=5)
    sampler = dict(type="InfiniteSampler", seed=3)
    if epochs:
        train = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
        sampler = dict(type="DefaultSampler", shuffle=True, seed=3)
    val = {}
    if validate:
        val = dict(
            val_dataloader=dict(
                batch_size=16,
                dataset=Numbers(),
                collate_fn=dict(type="default_collate"),
                sampler=dict(type="DefaultSampler"),
            ),
            val_evaluator=dict(type="ToyMetric"),
            val_cfg=dict(),
        )
    torch.manual_seed(0)
    randomness = dict(seed=7, diff_rank_seed=diff_rank_seed)
    return Runner(
        model=ToyModel(width),
        work_dir=str(work_dir),
        train_dataloader={**loader, "sampler": sampler},
        train_cfg=train,
        optim_wrapper=dict(
            wrapper or dict(clip_grad=dict(max_norm=1.0, norm_type=2)),
            optimizer=dict(type="AdamW", lr=0.01),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=4, T_max=10, eta_min=1e-4),
        ],
        default_hooks=dict(checkpoint=saver, logger=dict(type="LoggerHook", interval=1)),
        custom_hooks=[
            dict(type="EMAHook"),
            dict(type="sparc.RandomStateHook"),
            dict(type="ToyHook", **toy),
            *hooks,
            dict(type="sparc.PreemptHook", **(preempt_hook or {})),
        ],
        randomness=randomness,
        visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), *backends]),
        log_level="WARNING",
        experiment_name=uuid.uuid4().hex,
        load_from=None if resume is None and load_from is None else str(resume or load_from),
        resume=resume is not None,
        launcher=launcher,
        cfg=dict(purpose="a toy", randomness=randomness),
        **val,
    )


def train(work_dir, resume=None, **kwargs) -> Runner:
    """Run to the end, or to what stops it; `resume` as for tools/pretrain.py."""
    mmengine_patches.install()
    found = mmengine_patches.resolve_resume(work_dir, resume)
    runner = make_runner(work_dir, resume=found, **kwargs)
    stopped, threads = False, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runner.train()
        (Path(work_dir) / f"hash-{rank()}.txt").write_text(state_hash(runner))
    except Stop:
        stopped = True
    finally:
        torch.set_num_threads(threads)
    # Loader workers that the garbage collector ends at a bad moment take five seconds to go.
    loop = runner.train_loop
    iterators = [getattr(loop, "dataloader_iterator", None), loop.dataloader]
    for iterator in (getattr(i, "_iterator", None) for i in iterators):
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
    gc.collect()
    if stopped:
        raise Stop
    return runner


def weights_hash(model: nn.Module) -> str:
    """A hash of what is trained, without the buffers."""
    every = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    return hashlib.sha256(every.numpy().tobytes()).hexdigest()[:16]


def state_hash(runner: Runner) -> str:
    """One hash of weights, moving averages, optimizer and schedulers."""
    ema = next(h for h in runner.hooks if type(h).__name__ == "EMAHook")
    states = [
        runner.model.state_dict(),
        ema.ema_model.state_dict(),
        runner.optim_wrapper.state_dict(),
        [s.state_dict() for s in runner.param_schedulers],
    ]
    sha = hashlib.sha256()

    def feed(value):
        if isinstance(value, torch.Tensor):
            sha.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                sha.update(str(key).removeprefix("module.").encode())
                feed(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                feed(item)
        elif not callable(value):
            sha.update(repr(value).encode())

    feed(states)
    return sha.hexdigest()


def seen(work_dir, number=0) -> dict[int, dict]:
    """step -> what was trained on, last; a step that was done twice must have been the same."""
    records: dict[int, dict] = {}
    for line in (Path(work_dir) / f"seen-{number}.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert records.setdefault(record["step"], record) == record, "a repeated step differs"
    return records


def _child(environment, kwargs) -> None:
    os.environ.update(environment)
    if environment.get("RANK"):
        launcher.init_distributed("pytorch")
    try:
        train(**kwargs)
    except Exception as error:
        error = explain(error) or error
        path = Path(kwargs["work_dir"]) / f"error-{os.environ.get('RANK', '0')}.txt"
        path.write_text(f"{type(error).__name__}: {error}")
        sys.exit(2)
    finally:
        path = Path(kwargs["work_dir"]) / f"ended-{os.environ.get('RANK', '0')}.txt"
        path.write_text(str(time.monotonic()))


def spawn(ranks=1, timeout=SECONDS, grace=GRACE, **kwargs) -> list[int]:
    """Train in `ranks` child processes; their exit codes (minus the signal when killed).

    A collective may take `timeout` seconds; once a rank has failed the others get `grace`.
    """
    context = multiprocessing.get_context("forkserver")
    # One import of torch for all children; Python 3.11's fork server does not know our sys.path.
    context.set_forkserver_preload(["toy_run"])
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parents[1])]))
        forkserver.ensure_running()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for number in range(ranks):
        environment = {}
        if ranks > 1:
            kwargs["launcher"] = "pytorch"
            environment = dict(
                RANK=str(number),
                LOCAL_RANK=str(number),
                WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                SPARC_DIST_TIMEOUT=str(timeout),
            )
        children.append(context.Process(target=_child, args=(environment, dict(kwargs))))
    for child in children:
        child.start()
    for child in children:
        child.join(grace if any(one.exitcode for one in children) else SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
    return [child.exitcode for child in children]


KILLED = -signal.SIGKILL
