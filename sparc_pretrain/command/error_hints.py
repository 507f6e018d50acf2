"""What an error of foreign code means to the user, in one line with the remedy."""

from __future__ import annotations

import linecache
import re
import signal
import traceback
from multiprocessing.connection import wait

from sparc_pretrain.distributed import silent_ranks

FOREIGN = ("mmengine", "mmcv", "mmdet", "mmseg", "timm", "transformers", "torch")
# a collective that was begun and is waited for later says less than one that is waited for at once
LATER = r"timeout caused pair closure|Connection closed by peer"
STUCK_RANK = re.compile(rf"gloo/transport|Watchdog caught collective|{LATER}")
TIMED_OUT = re.compile(r"timed out|timeout caused", re.IGNORECASE)
WORKER_DIED = re.compile(r"DataLoader worker .*(?:exited unexpectedly|is killed by signal)")
# how a decoder ends on bytes that it cannot stand; a lack of memory ends in SIGKILL or SIGBUS
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
NCCL = re.compile(r"NCCL error|ncclUnhandled|ncclSystem|ncclInternal|ncclRemote|Duplicate GPU")
GROUPS = re.compile(r"different number of parameter groups|doesn't match the size of optimizer's")
SHARED_MEMORY = re.compile(r"unable to [^<]*</torch_[^>]*>[^:]*: [^(]*\(\d+\)")
LOADER = "torch.utils.data.dataloader"


def explain(error: BaseException) -> str | None:
    """One line for an error that is no fault of ours, None for any other.

    Known are: a class that does not take what a config gives it, told by mm, timm or torch, a
    loader worker that died or hangs, another rank that is gone or stuck, a GPU that is full, NCCL,
    and a checkpoint of an optimizer with other groups.
    """
    text = " ".join(str(error).split())
    if crash := _crash_of_a_worker(error):
        return crash
    if isinstance(error, (ConnectionError, EOFError)):
        # the worker died between naming a batch in shared memory and handing it over
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        loading = any(frame.f_globals.get("__name__") == LOADER for frame in frames)
        return _of_a_run("DataLoader worker exited unexpectedly.") if loading else None
    if isinstance(error, RuntimeError):
        return _of_a_run(text)
    if isinstance(error, ValueError) and GROUPS.search(text):
        return (
            f"the checkpoint's optimizer has other parameter groups than this training ({text}): "
            "it is of another version or config. Train on from its weights in a new --work-dir, "
            "with --cfg-options model.init_from=RUN"
        )
    if isinstance(error, (AssertionError, AttributeError, TypeError)):
        return _of_a_constructor(error, text)
    return None


def _crash_of_a_worker(error: BaseException) -> str | None:
    """A loader worker that a library ended, by the exit code of its process."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") != LOADER:
            continue
        workers = getattr(frame.f_locals.get("self"), "_workers", ())
        gone = wait([worker.sentinel for worker in workers], 1)  # its pipe breaks before it is gone
        for worker in workers:
            if worker.sentinel in gone:
                worker.join(1)  # its files are closed a moment before its exit code is known
            if -(worker.exitcode or 0) in CRASHES:
                return (
                    f"a DataLoader worker crashed ({signal.Signals(-worker.exitcode).name}) in a "
                    "library, on a sample that comes again after a resume: run with data.workers=0 "
                    "under `python -X faulthandler` to see where, and please report the file"
                )
    return None


def _of_a_run(text: str) -> str | None:
    if full := SHARED_MEMORY.search(text):
        return (
            f"a loader worker has no room for its batch in /dev/shm ({full[0]}): make it larger "
            "(`df /dev/shm`; docker run --shm-size, or an emptyDir of medium Memory), take fewer "
            "data.workers or prefetch less, then run the same command with --resume auto"
        )
    if WORKER_DIED.search(text):
        return (
            f"{text} A loader worker dies when memory runs out (`dmesg | grep -i kill`) or "
            "/dev/shm is full (`df /dev/shm`): use fewer data.workers or a larger /dev/shm, then "
            "run the same command with --resume auto"
        )
    if text.startswith("DataLoader timed out"):
        return (
            f"{text}: the loader workers are stuck, look at the disk that the shards are on; "
            "data.timeout sets the limit"
        )
    if text.startswith("CUDA out of memory"):
        return (
            f"{text[:160]}: the model and this batch are too large for the GPU. In pre-training, "
            "--accumulate 2 (4, 8, ...) gives the same gradients in less memory, and so do "
            "--cfg-options model.grad_checkpointing=True and --amp; elsewhere take a smaller "
            "batch. Then run the same command with --resume auto"
        )
    if NCCL.search(text):
        return (
            f"NCCL, which joins the GPUs, failed: {text[:300]}; more with NCCL_DEBUG=INFO. Usual "
            "causes: another process of the run is gone (its own output says why), more processes "
            "than GPUs on a machine, a small /dev/shm, or the wrong network (NCCL_SOCKET_IFNAME). "
            "Then run the same command with --resume auto"
        )
    if STUCK_RANK.search(text):
        silent = silent_ranks() if TIMED_OUT.search(text) else []
        who = f"rank {', '.join(map(str, silent))}" if silent else "another process"
        return (
            f"{who} of this run is gone or stuck: {text[:300]}; its own output says why, "
            "SPARC_DIST_TIMEOUT sets the limit. Run the same command with --resume auto"
        )
    return None


def _of_a_constructor(error: BaseException, text: str) -> str | None:
    """The error of a class that a registry was building, raised in foreign code: nearly always a
    value of the config; where it is not, the traceback is one variable away.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    kind = None
    for frame, _ in frames:
        if frame.f_code.co_name == "build_from_cfg":
            kind = frame.f_locals.get("obj_type", kind)
    if kind is None:
        return None
    last, line = frames[-1]
    module = last.f_globals.get("__name__", "")
    if module.split(".")[0] not in FOREIGN:
        return None
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    what = text or linecache.getline(last.f_code.co_filename, line).strip()
    return f"{name} cannot be built: {what} (in {module}; SPARC_TRACEBACK=1 shows the way there)"
