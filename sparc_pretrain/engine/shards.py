"""Tensors of a checkpoint in parts, a safetensors file from every process: in the layout of torch's
HuggingFaceStorageWriter (torch.distributed.checkpoint), whose reader puts them together for any
number of processes. The layout that torch takes by default is a pickle, which could run code.

``iter_N.pth`` holds all else, a note ``{"shard_of": name, "shape": [...], "dtype": "float32"}`` in
the place of each such tensor, and under ``shards`` the folder that they lie in, beside it.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as as_bytes
from torch import Tensor

from sparc_pretrain.atomic_file import HashingStream, atomic_write, crash_point
from sparc_pretrain.distributed import is_sharded
from sparc_pretrain.engine.manifest import SHARD_FOLDER, SHARDS

NOTE = "shard_of"
LOOK = 0.05  # seconds between two looks into the store
OFFSETS, OF_EACH = "DCP_SHARDING_INFO", "saved_offsets"  # torch's names
Place = tuple[list[int], Tensor]  # where in the whole tensor this process's part begins, and it


def split(state: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """`state` with a note in the place of each sharded tensor, and these by name."""
    if isinstance(state, Tensor) and is_sharded(state):
        dtype = str(state.dtype).removeprefix("torch.")
        return {NOTE: name, "shape": list(state.shape), "dtype": dtype}, {name: state}
    if not isinstance(state, (dict, list, tuple)):
        return state, {}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    parts = {key: split(value, f"{name}/{key}".lstrip("/")) for key, value in items}
    found = {inner: tensor for _, tensors in parts.values() for inner, tensor in tensors.items()}
    if isinstance(state, dict):
        return type(state)((key, part) for key, (part, _) in parts.items()), found
    return type(state)(part for part, _ in parts.values()), found


def own_parts(tensors: dict[str, Tensor]) -> dict[str, Place]:
    """Of each sharded tensor that this process has a part of, that part."""
    parts = {}
    for name, tensor in tensors.items():
        local = tensor.to_local()
        if local.numel():
            (chunk,) = tensor.__create_chunk_list__()
            parts[name] = list(chunk.offsets), local.detach()
    return parts


def write(file: Path, parts: dict[str, Place]) -> dict[str, Any]:
    """Write a process's `parts` durably; what the manifest says of the file."""
    places = {name: {OF_EACH: offsets} for name, (offsets, _) in parts.items()}
    tensors = {name: part.cpu().contiguous() for name, (_, part) in parts.items()}
    data = as_bytes(tensors, {OFFSETS: json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"})
    said: dict[str, Any] = {"file": f"{file.parent.name}/{file.name}"}

    def stream_to(opened: Any) -> None:
        stream = HashingStream(opened, crash_after=len(data) // 2)
        stream.write(data)
        if stream.error is not None:
            raise stream.error
        said.update(size=stream.size, sha256=stream.sha.hexdigest())

    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, stream_to)
    crash_point("ckpt.after_shard")
    return said


def fill(states: dict[int, dict[str, Any]], folder: Path, weights: list[Tensor]) -> None:
    """Put a tensor in the place of every note, of an optimizer's `states` by a weight's number.

    Args:
        states: changed in place.
        folder: where the shards lie.
        weights: of a sharded one this process wants its part, of others all, on the CPU.

    Raises:
        ValueError: shards are missing, damaged, or not those of these notes.
    """
    wanted: dict[str, Tensor] = {}
    places = []
    for number, state in states.items():
        for key, note in state.items():
            if isinstance(note, dict) and NOTE in note:
                name, shape, dtype = _read_note(note)
                mine = weights[number] if is_sharded(weights[number]) else None
                if mine is not None and list(mine.shape) == shape:
                    wanted[name] = torch.full_like(mine.detach(), torch.nan, dtype=dtype)
                else:
                    wanted[name] = torch.full(shape, torch.nan, dtype=dtype)
                places.append((state, key, name))
    _read(folder, wanted)
    for state, key, name in places:
        made = state[key] = wanted[name]
        if (made.to_local() if is_sharded(made) else made).isnan().any():
            raise ValueError(f"the shards in {folder} do not cover all of {name}, or hold NaN")


def _read(folder: Path, wanted: dict[str, Tensor]) -> None:
    from torch.distributed import checkpoint as dcp  # a second

    try:
        reader = dcp.HuggingFaceStorageReader(str(folder))
        there = reader.read_metadata().state_dict_metadata
        for name, tensor in wanted.items():
            if name not in there or there[name].size != tensor.shape:
                raise ValueError(f"{name} is not whole")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*assuming the intent is to load in a single proc")
            dcp.load(dict(wanted), storage_reader=reader, no_dist=True)  # into the tensors
    except Exception as error:  # of many libraries, for what may be anyone's files
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"the shards in {folder} cannot be put together: {first}") from error


def _read_note(note: dict[str, Any]) -> tuple[str, list[int], torch.dtype]:
    """Of a note its name, shape and dtype. Raises ValueError."""
    shape, dtype = note.get("shape"), getattr(torch, str(note.get("dtype")), None)
    sizes = isinstance(shape, list) and all(isinstance(size, int) and size > 0 for size in shape)
    if not sizes or dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ValueError(f"the checkpoint's note on {str(note[NOTE])[:80]} cannot be understood")
    return str(note[NOTE]), shape, dtype


class Meeting:
    """Where the processes tell each other how their shards of one checkpoint were written.

    In the store they met at, not in a collective: threads tell and ask while others train.

    Args:
        folder: for the shards; the same on every rank, and never used before.
        rank, ranks: this process and how many there are.
        silence: seconds after which a rank that has told nothing is given up.
    """

    def __init__(self, folder: Path, rank: int, ranks: int, silence: float = 1800.0) -> None:
        self.folder, self.rank, self.ranks, self.silence = folder, rank, ranks, silence
        self.told: dict[int, dict[str, Any]] = {}
        self.store = None
        if ranks > 1:
            import torch.distributed as dist

            store = dist.distributed_c10d._get_default_store()  # it has no public name
            self.store = dist.PrefixStore(f"sparc/shards/{folder.name}", store)

    def write(self, parts: dict[str, Place]) -> None:
        """Write this process's `parts`, and tell the first how it went. Raises OSError."""
        try:
            said = write(self.folder / f"rank-{self.rank:05d}.safetensors", parts)
        except OSError as error:
            self._tell({"error": f"rank {self.rank}: {error}", "errno": error.errno})
            raise
        self._tell(said)

    def hear(self) -> list[dict[str, Any]]:
        """What the manifest says of every rank's file, once all are written (rank 0).

        Raises OSError when a rank could not write, or tells nothing; the folder is gone then.
        """
        until = time.monotonic() + self.silence
        while missing := set(range(self.ranks)) - set(self.told):
            for other in missing:
                if self.store.check([str(other)]):
                    self.told[other] = json.loads(self.store.get(str(other)))
            if time.monotonic() > until:
                self.told[min(missing)] = {"error": f"rank {min(missing)} has written no shard"}
                break
            time.sleep(LOOK)
        said = [self.told[number] for number in sorted(self.told)]
        for one in said:
            if "error" in one:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise OSError(one.get("errno") or errno.EIO, one["error"])
        return said

    def _tell(self, said: dict[str, Any]) -> None:
        self.told[self.rank] = said
        if self.store is not None:
            self.store.set(str(self.rank), json.dumps(said))


def folder_beside(path: Path, token: str) -> Path:
    """Where the shards of the checkpoint `path` go; never twice the same folder."""
    return path.with_name(f"{path.stem}.{token}{SHARD_FOLDER}")


def folder_of(checkpoint: dict[str, Any], path: Path) -> Path:
    """Where the shards of the `checkpoint` read from `path` lie.

    Raises ValueError when it names no folder beside it.
    """
    name = checkpoint[SHARDS]
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(SHARD_FOLDER):
        raise ValueError(f"{path} names shards that are not beside it")
    return path.parent / name
