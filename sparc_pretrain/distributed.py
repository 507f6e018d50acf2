"""The only module that knows about processes: rank, world size, reductions and gather with
gradient.

On one process everything here is the identity, so callers never branch on the world size.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather as _all_gather_with_gradient
from torch.nn import functional as F

from sparc_pretrain.heartbeat import store, telling, until_done
from sparc_pretrain.step_before import Later

T = TypeVar("T")


def rank() -> int:
    """This process's number, 0 on a single process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 on a single process."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leave(code: int) -> NoReturn:
    """Exit with `code`; one of several processes leaves without the interpreter's own end.

    There a gloo thread that lets go of its last tensor wants the interpreter's lock, which ends the
    process with "terminate called without an active exception" and -6 now and then (torch 2.14):
    torchrun would call a finished run failed. What is registered with `atexit` still runs.
    """
    if world_size() == 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def gather(x: Tensor) -> Tensor:
    """Concatenate `x` [B,...] of every rank along dim 0 -> [W*B,...], in rank order, with gradient.

    The backward pass sums the gradients that every rank sends to a slice, so a loss that is the
    mean over ranks has the gradient of the single-process loss. Half precision becomes float32
    before it travels: else those sums of as many terms as ranks would be rounded one by one. Every
    rank must pass the same shape.
    """
    if world_size() == 1:
        return x
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    joined = torch.cat(_all_gather_with_gradient(x.contiguous()), dim=0)
    if joined.requires_grad:
        # torch sends the slices of the gradient as they lie in memory: a transposed one arrives
        # scrambled, without an error.
        joined.register_hook(torch.Tensor.contiguous)
    return joined


def gather_padded(x: Tensor, dim: int = 1) -> Tensor:
    """`gather` of `x` [B,...] when its size along `dim` differs between ranks (captions): zeros, or
    False, are added up to the longest first.
    """
    if world_size() == 1:
        return x
    longest = torch.tensor(x.shape[dim], device=x.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    padded = F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, int(longest) - x.shape[dim]))
    return gather(padded.byte()).bool() if x.dtype == torch.bool else gather(padded)


def gather_own_columns(x: Tensor) -> Tensor:
    """`x` [b,W*c] of every rank, with c columns of each rank -> [W*b,c]: all rows of this rank's
    own columns, in rank order, with gradient. What `gather(x)[:, own]` gives, but no rank is sent
    more than it needs.
    """
    if world_size() == 1:
        return x
    blocks = x.unflatten(1, (world_size(), -1)).transpose(0, 1).contiguous()  # [W,b,c]
    return _Exchange.apply(blocks).flatten(0, 1)


class _Exchange(torch.autograd.Function):
    """Block w of `blocks` [W,...] goes to rank w; its gradient comes back the same way."""

    @staticmethod
    def forward(ctx, blocks: Tensor) -> Tensor:
        received = torch.empty_like(blocks)
        dist.all_to_all_single(received, blocks)
        return received

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Exchange.forward(ctx, gradient.contiguous())


def roll(x: Tensor, by: int = 1) -> Tensor:
    """`x` [B,...] with the rows of the global batch moved on by `by`, at most B, with gradient: row
    i holds what row i - by held, the first rows of a rank the last ones of the rank before it.
    """
    before = (rank() - 1) % world_size()
    return torch.cat([gather(x[-by:])[before * by : (before + 1) * by], x[:-by]])


def own_rows(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Where this rank's `count` rows stand in what `gather` returns: [count] long."""
    return torch.arange(count, device=device) + rank() * count


def total(x: Tensor) -> Tensor:
    """Sum of `x` over the ranks, without gradient; `x` itself is left alone."""
    summed = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(summed)
    return summed


def share(x: Tensor) -> None:
    """Rank 0's `x` on every rank, in place."""
    if world_size() > 1:
        dist.broadcast(x, 0)


def is_sharded(x: Tensor) -> bool:
    """Whether `x` is a DTensor, of which this rank holds a part (`engine.sharded`)."""
    return hasattr(x, "placements")


def part_of(value: Any, weight: Tensor) -> Any:
    """This rank's part of the whole `value` [...], sharded as `weight` [...] is; what has another
    shape (a count of steps), is a part, or a whole `weight`, leaves it as it is. No rank waits for
    another.
    """
    if isinstance(value, Tensor) and is_sharded(value):
        return value
    if not is_sharded(weight) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    from torch.distributed.tensor import distribute_tensor  # who needs it has it imported

    value, mesh = value.to(weight.device), weight.device_mesh
    return distribute_tensor(value, mesh, weight.placements, src_data_rank=None)


def most(x: Tensor) -> Tensor:
    """The largest `x` of all ranks, without gradient; `x` itself is left alone."""
    largest = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def everywhere(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True when `flag` is true on every rank."""
    if world_size() == 1:
        return bool(flag)
    votes = torch.tensor([int(flag)], dtype=torch.int32, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes.item())


def anywhere(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True when `flag` is true on at least one rank."""
    return not everywhere(not flag, device)


class LateVote:
    """The largest number that any rank casts, told one cast later: nobody waits for it."""

    def __init__(self) -> None:
        self._sent: tuple[Later, dist.Work] | None = None

    def cast(self, value: int) -> int:
        """The outcome of the cast before, 0 at the first; on one process that of this one. Every
        rank must call it as often.
        """
        if world_size() == 1:
            return int(value)
        before = self.take()
        place = "cuda" if dist.get_backend() == "nccl" else "cpu"
        vote = torch.full((1,), int(value), dtype=torch.int32, device=place)  # no copy to wait for
        work = dist.all_reduce(vote, op=dist.ReduceOp.MAX, async_op=True)
        if vote.is_cuda:
            work.wait()  # the device waits, not this process
        self._sent = Later(vote), work
        return before

    def take(self) -> int:
        """The outcome of the last cast, waited for; 0 when there is none."""
        if self._sent is None:
            return 0
        (vote, work), self._sent = self._sent, None
        work.wait()
        return int(vote.read())


def gather_objects(value: object) -> list:
    """`value` of every rank, in rank order, on every rank (small picklable objects only)."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, on every rank, and what it raises; the others do not work.

    It may take hours: nobody waits in a collective, which would end after minutes. Raises
    TimeoutError as `until_done`. For picklable values; every rank must call it.
    """
    if world_size() == 1:
        return work()
    place = store("first")
    call = str(place.add(f"calls/{rank()}", 1))
    told: list = [None]
    if rank() == 0:
        with telling(place, call):
            try:
                told = [(work(), None)]
            except Exception as error:
                told = [(None, error)]
    else:
        until_done(place, call)
    own = told[0]
    dist.broadcast_object_list(told, src=0)
    value, error = told[0] if own is None else own  # rank 0 keeps what it has, not a copy
    if error is not None:
        raise error
    return value


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()


def silent_ranks(seconds: float = 3.0) -> list[int]:
    """The ranks that do not call this within `seconds`: after a collective has timed out, those
    that still live do. Empty when the store that ranks meet at does not answer either.
    """
    if world_size() == 1:
        return []
    silent: list[int] = []
    until = time.monotonic() + seconds
    try:
        place = store("alive")
        place.set(str(rank()), "1")
        while time.monotonic() < until:
            time.sleep(0.2)
            silent = [other for other in range(world_size()) if not place.check([str(other)])]
    except (RuntimeError, OSError):
        return silent  # the rank that holds the store has seen enough and is gone
    return silent
