"""Foreign trouble is told in one line with its remedy; what may be a fault of ours is not."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable

import pytest
import torch
from mmengine.registry import MODELS
from torch.utils.data import DataLoader, Dataset

from sparc_pretrain.command.error_hints import explain
from sparc_pretrain.engine import mmengine_patches
from tests.commands import refusal, through_the_door
from transfer import mm


class Doomed(Dataset):
    """A data set whose third sample never comes."""

    def __init__(self, fate: Callable[[], None]) -> None:
        self.fate = fate

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            self.fate()
        return torch.zeros(1)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashed() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def asleep() -> None:
    time.sleep(60)


def test_a_killed_loader_worker_is_told_within_ten_seconds_with_what_kills_workers() -> None:
    started = time.monotonic()
    line = refusal(through_the_door(lambda: len(list(DataLoader(Doomed(killed), num_workers=1)))))
    assert "/dev/shm" in line and "memory runs out" in line and "--resume auto" in line
    assert time.monotonic() - started < 10


def test_a_worker_that_crashed_is_not_told_to_lack_memory() -> None:
    line = refusal(through_the_door(lambda: len(list(DataLoader(Doomed(crashed), num_workers=1)))))
    assert "worker crashed (SIGSEGV)" in line and "faulthandler" in line
    assert "memory" not in line and "--resume auto" not in line


def test_a_child_that_ends_while_an_error_is_told_does_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def verdict(signum: int, frame: object) -> None:  # as torch's handler does
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Segmentation fault.")

    def slowly(error: BaseException) -> str:
        os.kill(os.getpid(), signal.SIGCHLD)
        return explain(error) or str(error)

    def fail() -> None:
        raise ValueError("the first trouble")

    monkeypatch.setattr("sparc_pretrain.command.error_hints.explain", slowly)
    before = signal.signal(signal.SIGCHLD, verdict)
    try:
        assert "the first trouble" in refusal(through_the_door(fail))
        assert signal.getsignal(signal.SIGCHLD) is verdict
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_full_dev_shm_is_told_within_ten_seconds_by_its_name() -> None:
    def no_room() -> None:  # for the file in /dev/shm that hands a tensor over
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

    mmengine_patches.install()
    started = time.monotonic()
    loader = DataLoader(Doomed(no_room), num_workers=1, collate_fn=list, timeout=60)
    line = refusal(through_the_door(lambda: len(list(loader))))
    assert "no room for its batch in /dev/shm" in line and "--shm-size" in line
    assert "shards" not in line and time.monotonic() - started < 10


def test_a_stuck_loader_worker_is_told_after_the_timeout() -> None:
    loader = DataLoader(Doomed(asleep), num_workers=1, timeout=1)
    line = refusal(through_the_door(lambda: len(list(loader))))
    assert "timed out after 1 seconds" in line and "data.timeout" in line


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dict(type="FPN", in_channels=8, out_channels=8, num_outs=2), ("FPN", "in_channels")),
        (dict(type="FPN", in_channels=[8], out_channels=8, num_outs=0), ("FPN", "num_outs")),
        (
            dict(type="FCOSHead", num_classes="x", in_channels=8),
            ("FCOSHead cannot be built", "torch.nn"),
        ),
    ],
)
def test_a_foreign_class_that_refuses_its_config_is_named(config: dict, words: tuple) -> None:
    mm.register("mmdet")
    config["_scope_"] = "mmdet"
    line = refusal(through_the_door(lambda: bool(MODELS.build(config))))
    assert all(word in line for word in words), line


@MODELS.register_module(force=True)
class Faulty:
    """A class of nobody's zoo, with a fault of its own."""

    def __init__(self) -> None:
        assert not "ours", "a fault of ours"


def test_a_worker_that_dies_while_handing_over_is_told_alike() -> None:
    assert explain(ConnectionResetError(104, "Connection reset by peer")) is None
    code = compile("def fetch(): raise EOFError", "dataloader.py", "exec")
    exec(code, scope := {"__name__": "torch.utils.data.dataloader"})
    with pytest.raises(EOFError) as caught:
        scope["fetch"]()
    assert "memory runs out" in explain(caught.value)


def test_a_fault_in_a_class_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(AssertionError, match="a fault of ours"):
        through_the_door(lambda: bool(MODELS.build(dict(type="Faulty"))))


def test_an_assertion_outside_of_building_is_not_explained() -> None:
    from mmengine.utils import is_seq_of

    with pytest.raises(AssertionError) as caught:
        is_seq_of([1], int, seq_type=3)
    assert explain(caught.value) is None
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


FULL_GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB of "
    "which 1.1 GiB is free."
)
NO_NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, invalid usage, NCCL "
    "version 2.27.5\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 3000"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError(FULL_GPU),
            ["2.00 GiB", "--accumulate 2", "grad_checkpointing=True"],
        ),
        (torch.distributed.DistBackendError(NO_NCCL), ["Duplicate GPU", "NCCL_DEBUG=INFO"]),
        (
            ValueError("loaded state dict has a different number of parameter groups"),
            ["another version or config", "model.init_from=RUN"],
        ),
    ],
    ids=["full GPU", "NCCL", "parameter groups"],
)
def test_trouble_of_gpus_and_checkpoints_is_told_with_its_remedy(
    error: Exception, words: list[str]
) -> None:
    def fail() -> None:
        raise error

    line = refusal(through_the_door(fail))
    assert all(word in line for word in words), line
