"""The door of every tool: mistakes of the user end in one line and exit code 2, before anything is
trained. torch and mmengine are imported by what needs them: a command line is read without.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sparc_pretrain import shipped
from sparc_pretrain.config_tree import dicts

if TYPE_CHECKING:
    from mmengine.config import Config

USER_ERRORS = (ValueError, OSError, KeyError, ImportError)
# Top-level keys of a config that mmengine or our tools read: a near miss of one of these is a typo.
KNOWN_KEYS = [
    "model",
    "work_dir",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "train_cfg",
    "val_cfg",
    "test_cfg",
    "auto_scale_lr",
    "optim_wrapper",
    "param_scheduler",
    "val_evaluator",
    "test_evaluator",
    "default_hooks",
    "custom_hooks",
    "data_preprocessor",
    "load_from",
    "resume",
    "launcher",
    "env_cfg",
    "log_processor",
    "log_level",
    "visualizer",
    "default_scope",
    "randomness",
    "experiment_name",
    "custom_imports",
    "tokenizer",
    "data",
    "schedule",
    "task",
    "model_wrapper_cfg",
    "strategy",
    "remote_sync",
]

IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
OUR_PACKAGES = ("sparc_pretrain.", "transfer.")
# Below keys that end like these a `type` may name a function or a torch layer (nms, RoIAlign),
# which no registry holds.
FUNCTION_KEYS = ("_cfg", "nms", "roi_layer")
# Keys that mmengine's builders take out before the class sees its arguments.
BUILDER_KEYS = {"type", "_scope_", "constructor", "paramwise_cfg", "priority"}


def guard(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool's `main` and exit: with its return value, or with 2 and one line on stderr for a
    user's mistake or for foreign trouble that can be explained (`explain`).

    SPARC_TRACEBACK=1 shows the traceback instead, for developers.
    """
    try:
        code = main()
    except Exception as error:
        with _deaf_to_children():
            from sparc_pretrain.command.error_hints import explain

            wrong_argument = isinstance(error, TypeError) and "unexpected keyword" in str(error)
            mistake = isinstance(error, USER_ERRORS) or wrong_argument
            line = explain(error) or (one_line(error) if mistake else None)
        if line is None or os.environ.get("SPARC_TRACEBACK") == "1":
            raise
        print(f"error: {shipped.spoken(line)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        code = end.code
    if "torch" not in sys.modules:  # nothing was started that could hold the process
        sys.exit(code or 0)
    from sparc_pretrain.distributed import leave

    leave(code or 0)


@contextmanager
def _deaf_to_children() -> Iterator[None]:
    """torch's handler of SIGCHLD raises wherever Python is when a loader worker is gone: where an
    error is being told, which may be that worker's own, it would take its place.
    """
    heard = signal.getsignal(signal.SIGCHLD)  # None is a handler of C, which Python cannot set
    if heard is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except RuntimeError:  # of a child that was gone before: told once, then the handler is free
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, heard)


def one_line(error: BaseException) -> str:
    """The message of `error` without newlines or KeyError's quotes; of an error in a loader's
    worker, which comes with its traceback, the message there.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if IN_WORKER.match(text):
        text = (re.findall(r"^[\w.]+: (.+)$", text, re.MULTILINE) or [text])[-1]
    return re.sub(r"\s*\n\s*", " ", text).strip() or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'X'?)`` when a known name is close to `name`, else an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def read_config(path: str | Path, custom_imports: bool = True) -> Config:
    """The config of a file; without `custom_imports` the modules it names are not imported.

    Raises:
        FileNotFoundError: no such file, or no such base. ValueError: it is not Python, or ends in
            an error of its own.
    """
    from mmengine.config import Config

    shipped.teach_mmengine()
    path = shipped.located(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no config file {path}")
    try:
        _refuse_circle(os.path.abspath(path), ())
        return Config.fromfile(path, import_custom_modules=custom_imports)
    except SyntaxError as error:
        inner = error.__context__  # mmengine raises one of its own, without the line
        error = inner if error.lineno is None and isinstance(inner, SyntaxError) else error
        raise ValueError(f"{path} or a base of it, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path} or a base of it includes itself, or is nested too deep") from None
    except (OSError, ImportError):
        raise
    except Exception as error:  # a config is a program: it raises what it wants
        raise ValueError(
            f"{path} or a base of it cannot be read: {type(error).__name__}: {one_line(error)} "
            "(SPARC_TRACEBACK=1 shows where)"
        ) from error


def _refuse_circle(path: str, above: tuple[str, ...]) -> None:
    """Raises ValueError for a config that is among its own bases: mmengine would read for ever."""
    if path in above:
        raise ValueError(f"it includes itself through {' and '.join(above)}")
    from mmengine.config import Config

    for base in Config._get_base_files(path):
        if "::" not in base:  # another package's
            _refuse_circle(os.path.abspath(Path(path).parent / base), (*above, path))


def check_config(cfg: Any) -> None:
    """Find misspelt keys and unregistered types of a config before anything is built.

    Args:
        cfg: an mmengine Config whose custom imports have been done.

    Raises:
        ValueError: a top-level key that nearly is a known one, a type that no registry holds,
            or an argument that the type does not take; each with the nearest match.
    """
    for key in cfg:
        match = difflib.get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.8)
        # configs define variables of their own (conv_cfg, val_evaluator_2): those are not typos
        typo = match and key[0] == match[0][0] and not key.startswith(match[0])
        if key not in KNOWN_KEYS and typo:
            raise ValueError(f"config key {key!r} is unknown (did you mean {match[0]!r}?)")
    known = _registered(cfg.get("default_scope"))
    for key in KNOWN_KEYS:
        if key in cfg and key not in ("custom_imports", "data", "auto_scale_lr"):
            _check(cfg[key], key, known)


def writable(folder: str | Path) -> Path:
    """Make `folder` and prove that it can be written to.

    Raises:
        OSError: naming the folder and the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to the work dir {folder}: {error.strerror}") from None
    return folder


def _registered(scope: str | None) -> dict[str, list[Any]]:
    """name -> classes or functions of every registry, with and without the scope before it."""
    from mmengine.registry import DefaultScope, Registry, root

    from sparc_pretrain.registry import OBJECTIVES

    known: dict[str, list[Any]] = {}

    def visit(registry: Registry) -> None:
        registry.import_from_location()
        for name, item in registry.module_dict.items():
            known.setdefault(name, []).append(item)
            known.setdefault(f"{registry.scope}.{name}", []).append(item)
        for child in registry.children.values():
            visit(child)

    with DefaultScope.overwrite_default_scope(scope):
        for registry in vars(root).values():
            if isinstance(registry, Registry):
                visit(registry)
        visit(OBJECTIVES)
    return known


def _check(value: Any, where: str, known: dict[str, list[Any]]) -> None:
    for path, part in dicts(value, where, lambda key: not key.endswith(FUNCTION_KEYS)):
        kind = part.get("type")
        if isinstance(kind, str):
            if kind not in known and not _torch_name(kind):
                raise ValueError(f"{path}.type: {kind!r} is not registered{nearest(kind, known)}")
            ours = [c for c in known.get(kind, []) if c.__module__.startswith(OUR_PACKAGES)]
            _check_arguments(part, path, ours)


def _torch_name(kind: str) -> bool:
    return kind.startswith("torch.")


def _check_arguments(value: dict, where: str, candidates: list[Any]) -> None:
    """An argument is wrong when no registered class of that name takes it (directly or through
    **kwargs).
    """
    from sparc_pretrain.registry import parameters_of

    wrong: list[tuple[str, set[str]]] = []
    for item in candidates:
        taken, open_ended = parameters_of(item)
        names = set(taken)
        extra = [k for k in value if k not in names | BUILDER_KEYS]
        if open_ended or not extra:
            return
        wrong.append((extra[0], names))
    if wrong:
        key, names = wrong[0]
        raise ValueError(f"{where}: {value['type']} takes no argument {key!r}{nearest(key, names)}")
