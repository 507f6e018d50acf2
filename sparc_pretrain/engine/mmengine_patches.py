"""Every patch of mmengine that training needs, in one place; and what to resume from.

Each patch says why it is here and when it can go. mmengine's parts are looked up at call time, so
`install` only has to run before the first Runner is built.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from inspect import isclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mmengine.fileio.handlers.yaml_handler as yaml_handler
import mmengine.hub
import mmengine.hub.hub
import mmengine.runner
import mmengine.runner.checkpoint as mm_checkpoint
import mmengine.runner.runner as mm_runner
import mmengine.utils
import mmengine.utils.package_utils as package_utils
import torch
import yaml
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch._utils import ExceptionWrapper
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import get_worker_info

from sparc_pretrain import shipped
from sparc_pretrain.distributed import gather_objects, rank
from sparc_pretrain.engine.checkpoint import CorruptCheckpoint, find_valid, load, save, verify
from sparc_pretrain.engine.checkpoint import committed as has_manifest
from sparc_pretrain.engine.config_guards import finite, names_only
from sparc_pretrain.engine.log_backends import sheltered
from sparc_pretrain.engine.plain_data import load_plain
from sparc_pretrain.engine.writer import Writer

__all__ = ["drop_config_text", "install", "resolve_resume"]

HANDING_OVER = "in a loader worker that hands over a batch"
COMPILED, PARALLEL = "_orig_mod.", "module."
WRITER = "writer"  # under which a checkpoint on its way to the disk says who writes it
SHARD_FILES = "shard_files"  # and what tells of its shards
RESUMABLE = ("meta", "state_dict", "message_hub", "optimizer")


def install() -> None:
    """Patch mmengine; calling it again changes nothing."""
    shipped.teach_mmengine()
    if mm_checkpoint._safe_torch_load is _strict_torch_load:
        return

    # mmengine retries a refused pickle with weights_only=False. Goes when that fallback goes.
    mm_checkpoint._safe_torch_load = _strict_torch_load
    # torch.hub's loader, used for http(s) and torchvision:// weights, unpickles anything.
    mm_checkpoint.load_url = _strict_load_url
    # Runner.resume and the inferencers execute config text found in a checkpoint. Goes when
    # mmengine stops calling Config.fromstring on it.
    loader = mm_checkpoint.CheckpointLoader
    loader.load_checkpoint = classmethod(_without_code(loader.load_checkpoint.__func__))

    # mmengine writes in place, from a second copy in memory, without fsync or checksum. Goes when
    # it writes atomically.
    original_save = mm_checkpoint.save_checkpoint
    for module in (mm_checkpoint, mm_runner, mmengine.runner):
        module.save_checkpoint = _durable_save(original_save)
    # mmengine believes the pointer file, also when it is empty or names a deleted file.
    for module in (mm_checkpoint, mm_runner, mmengine.runner):
        module.find_latest_checkpoint = _find_latest

    # A checkpoint of another model fails in the depths of torch, on many lines.
    Runner.resume = _one_line_mismatch(Runner.resume)

    # YAML configs are read with the full loader, which runs code. Goes with a safe default.
    # Not the C one: brackets inside brackets end the process there.
    yaml_handler.Loader = yaml.SafeLoader
    # An anchor that holds itself, or ten that hold each other ten times, never end.
    handler = yaml_handler.YamlHandler
    handler.load_from_fileobj = finite(handler.load_from_fileobj)

    # Keys of dicts are written into the Python text of a config without escaping: one with a quote
    # in it, out of a run folder or a checkpoint, would be code when the copy in the work dir is
    # read. Goes when they are written with repr.
    Config.pretty_text = property(names_only(Config.pretty_text.fget))

    # mmengine.hub pip-installs packages in the middle of a run, over the ones that are there.
    for module in (package_utils, mmengine.utils, mmengine.hub.hub):
        module.install_package = _refuse_install
    for module in (mmengine.hub, mmengine.hub.hub):
        module.get_config = module.get_model = _refuse_hub

    # A log server that is down, or a package that is missing, ends the run. Goes when the
    # Visualizer catches what its backends raise.
    Visualizer.__init__ = sheltered(Visualizer.__init__)

    # A batch that does not fit into /dev/shm is dropped by the thread that hands it over, and the
    # loader waits for it. Goes when multiprocessing tells the reader.
    Queue._on_queue_feeder_error = _hand_over_the_error

    # On a machine without accelerator DistributedDataParallel must not get device_ids. Goes when
    # Runner.wrap_model looks at the device.
    Runner.wrap_model = _cpu_aware(Runner.wrap_model)


def resolve_resume(work_dir: str | Path, resume: str | Path | None) -> Path | None:
    """The verified checkpoint to resume from, the same on every rank; None starts from scratch.

    Args:
        work_dir: searched when `resume` is "auto".
        resume: None, "auto", or the path of a checkpoint.

    Raises:
        ValueError: the file is damaged, or is not a checkpoint that training can resume from.
        FileNotFoundError: no such file.
    """
    chosen: Path | None = None
    error: Exception | None = None
    if rank() == 0 and resume is not None:
        try:
            chosen = find_valid(work_dir) if str(resume) == "auto" else _checked(Path(resume))
        except (ValueError, OSError) as caught:
            error = caught
    # One rank reads and hashes the file; the others get its verdict.
    kind, message, path = gather_objects((type(error), str(error), chosen))[0]
    if error is not None:
        raise error
    if issubclass(kind, Exception):
        raise (kind if kind in (FileNotFoundError, CorruptCheckpoint) else ValueError)(message)
    return path


def _checked(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give --resume a checkpoint, or auto")
    if has_manifest(path):
        verify(path)
    else:
        print_log(f"{path} has no manifest, so damage to it cannot be noticed", "current")
    missing = [key for key in RESUMABLE if key not in load(path)]
    if missing:
        raise ValueError(
            f"{path} cannot be resumed from: it lacks {', '.join(missing)}; for its weights alone, "
            "use load_from"
        )
    return path.resolve()


def _strict_torch_load(
    file: Any, map_location: Any = None, weights_only: bool | None = None
) -> Any:
    """Stands for mmengine's `_safe_torch_load`; `weights_only` is always true."""
    if isinstance(file, (str, Path)):
        return load(file, map_location)
    return load_plain(file, getattr(file, "name", "the downloaded checkpoint"), map_location)


def _strict_load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
) -> Any:
    folder = Path(model_dir or Path(torch.hub.get_dir()) / "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / Path(urlparse(url).path).name
    if not file.exists():
        torch.hub.download_url_to_file(url, str(file), progress=progress)
    return load(file, map_location)


def _without_code(original: Callable) -> Callable:
    @wraps(original)
    def load_checkpoint(cls: type, *args: Any, **kwargs: Any) -> Any:
        checkpoint = original(cls, *args, **kwargs)
        if isinstance(checkpoint, dict):
            drop_config_text(checkpoint)
            _drop_wrapper_names(checkpoint)
        return checkpoint

    return load_checkpoint


def drop_config_text(checkpoint: dict[str, Any]) -> str | None:
    """Remove, in place, the config texts mmengine would execute; returns the one of ``meta``."""
    text = None
    meta = checkpoint.get("meta")
    if isinstance(meta, dict):
        text = meta.pop("cfg", None)
        meta.pop("config", None)
    hub = checkpoint.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    if isinstance(info, dict):
        info.pop("cfg", None)
    return text if isinstance(text, str) else None


def _drop_wrapper_names(checkpoint: dict[str, Any]) -> None:
    """Take ``_orig_mod.`` of torch.compile and ``module.`` of DDP off the names of weights. (In a
    moving average ``module.`` is its own.)
    """
    for part in ("state_dict", "ema_state_dict"):
        weights = checkpoint.get(part)
        if not isinstance(weights, dict):
            continue
        names = [name.replace(COMPILED, "") for name in weights]
        if part == "state_dict" and all(name.startswith(PARALLEL) for name in names):
            names = [name.removeprefix(PARALLEL) for name in names]
        if names != list(weights):
            checkpoint[part] = dict(zip(names, weights.values(), strict=True))


def _durable_save(original: Callable) -> Callable:
    @wraps(original)
    def save_checkpoint(
        checkpoint: dict, filename: str, file_client_args: Any = None, backend_args: Any = None
    ) -> None:
        if file_client_args or backend_args or "://" in str(filename):
            checkpoint.pop(WRITER, None)
            original(checkpoint, filename, file_client_args, backend_args)
        else:
            writer = checkpoint.pop(WRITER, None) or Writer()
            shards = checkpoint.pop(SHARD_FILES, None)
            state = writer.own(checkpoint)
            writer.do(lambda: save(state, filename, shards))

    return save_checkpoint


def _one_line_mismatch(original: Callable) -> Callable:
    @wraps(original)
    def resume(self: Runner, filename: str, *args: Any, **kwargs: Any) -> None:
        # hooks ask for both, also when a script calls resume itself
        self._resume, self._load_from = True, str(filename)
        try:
            original(self, filename, *args, **kwargs)
        except (RuntimeError, KeyError) as error:
            if isinstance(error, KeyError) or "size mismatch" in str(error):
                first = " ".join(str(error).split())[:200]
                raise ValueError(f"cannot resume from {filename}: {first}") from error
            raise

    return resume


def _find_latest(path: str) -> str | None:
    found = find_valid(path)
    return None if found is None else str(found)


def _refuse_install(package: str) -> None:
    raise ImportError(f"{package} is missing, and nothing is installed during a run: install it")


def _refuse_hub(*args: Any, **kwargs: Any) -> None:
    raise ImportError(
        "mmengine.hub would install packages over the ones in use; load the config with "
        "mmengine.Config.fromfile from the installed package instead"
    )


def _hand_over_the_error(queue: Queue, error: Exception, item: Any) -> None:
    """Stands for multiprocessing's static method, which prints the error and goes on; `item` is
    what could not be sent, of a loader worker (number of the batch, batch).
    """
    if get_worker_info() is not None and isinstance(item, tuple) and len(item) == 2:
        caught = (type(error), error, error.__traceback__)
        queue.put((item[0], ExceptionWrapper(caught, where=HANDING_OVER)))
    else:
        traceback.print_exception(error)


def _cpu_aware(original: Callable) -> Callable:
    @wraps(original)
    def wrap_model(self: Runner, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> Any:
        if self.distributed and not torch.cuda.is_available() and not is_model_wrapper(model):
            cfg = dict(
                model_wrapper_cfg
                or dict(
                    broadcast_buffers=False,
                    find_unused_parameters=self.cfg.get("find_unused_parameters", False),
                )
            )
            kind = cfg.setdefault("type", "MMDistributedDataParallel")
            wrapper = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
            if isclass(wrapper) and issubclass(wrapper, DistributedDataParallel):
                model_wrapper_cfg = {**cfg, "device_ids": None}
        wrapped = original(self, model_wrapper_cfg, model)
        if getattr(wrapped, "sharded", False):  # it has its weights; to broadcast parts is wrong
            self._init_model_weights = lambda: None
        return wrapped

    return wrap_model
