"""The start of torch.distributed, on machines with and without GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import timedelta
from typing import Any, Literal

import mmengine.dist
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

DEFAULT_TIMEOUT = 600.0  # seconds a collective may take before the run ends with an error
DEFAULT_PORT = "29500"


def init_distributed(
    launcher: Literal["none", "pytorch", "slurm", "mpi"], timeout: float | None = None
) -> None:
    """Start torch.distributed before the Runner is built: gloo without a GPU, else mmengine's nccl.

    Args:
        launcher: what started the processes; "pytorch" is torchrun.
        timeout: seconds a collective may take; default SPARC_DIST_TIMEOUT, else 600.

    Raises:
        ValueError: the launcher is unknown, or does not fit the environment.
    """
    if launcher == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("torchrun started several processes: add --launcher pytorch")
        return
    if launcher not in ("pytorch", "slurm", "mpi"):
        raise ValueError(f"launcher {launcher!r} is none of none, pytorch, slurm, mpi")
    if dist.is_initialized():
        return
    seconds = float(timeout or os.environ.get("SPARC_DIST_TIMEOUT", DEFAULT_TIMEOUT))
    _export_ranks(launcher)
    if torch.cuda.is_available():
        choose_gpu(launcher)
    place = _meeting_place(timedelta(seconds=seconds))
    if torch.cuda.is_available():
        # what slurm and mpi say has just been put where mmengine's own torchrun branch reads it
        mmengine.dist.init_dist("pytorch", backend="nccl", timeout=seconds, **place)
    else:
        dist.init_process_group("gloo", timeout=timedelta(seconds=seconds), **place)


def choose_gpu(launcher: str) -> None:
    """LOCAL_RANK becomes the number of a GPU that this process sees: with ``--gpus-per-task=1``
    slurm shows each its own, as number 0. Raises ValueError for more processes than GPUs.
    """
    here, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if launcher == "pytorch" and together > gpus:
        raise ValueError(
            f"torchrun started {together} processes on a machine with {gpus} GPUs: use "
            f"--nproc-per-node {gpus}"
        )
    os.environ["LOCAL_RANK"] = str(here % gpus)


def _meeting_place(timeout: timedelta) -> dict[str, Any]:
    """`store`, `rank` and `world_size` of init_process_group.

    torchrun's store outlives its workers (torch 2.14): after a restart it still holds the
    addresses of the dead ones, and who reads before they are overwritten is refused a connection.
    So every life of the workers has keys of its own.
    """
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"sparc/life-{life}", store)
    return {"store": store, "rank": rank, "world_size": world_size}


def _export_ranks(launcher: str) -> None:
    """Put what slurm or mpi say about this process where torch.distributed looks for it."""
    names = {
        "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
        "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    }[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        remedy = {
            "pytorch": "start with torchrun --nproc-per-node N",
            "slurm": "start with srun",
            "mpi": "start with mpirun",
        }[launcher]
        raise ValueError(f"launcher {launcher} needs {', '.join(missing)}: {remedy}")
    for name, source in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), names, strict=True):
        os.environ[name] = os.environ[source]
    if launcher != "pytorch":
        os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = _first_host(launcher)


def _first_host(launcher: str) -> str:
    """The host name of rank 0. Raises ValueError when only the user can know it."""
    nodes = os.environ.get("SLURM_NODELIST", "") if launcher == "slurm" else ""
    if nodes and not set(nodes) & set("[,"):  # one node: its name as it is
        return nodes
    if nodes and shutil.which("scontrol"):
        command = ["scontrol", "show", "hostnames", nodes]
        return subprocess.check_output(command, text=True).split()[0]
    if os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == os.environ["WORLD_SIZE"]:
        return "127.0.0.1"
    raise ValueError("set MASTER_ADDR to the host name of the first node")
