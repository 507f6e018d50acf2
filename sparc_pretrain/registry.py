"""MMEngine registries of scope ``sparc``: children of mmengine's roots, so ``type='sparc.X'`` works
anywhere.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine import registry as roots
from mmengine.registry import Registry


def _child(root: Registry, *locations: str) -> Registry:
    """`locations` are imported when a name is first looked up."""
    return Registry(root.name, parent=root, scope="sparc", locations=list(locations))


# Backbones, metrics and captioning are registered by importing `transfer`.
MODELS = _child(roots.MODELS, "sparc_pretrain.pretraining.pretrainer")
MODEL_WRAPPERS = _child(roots.MODEL_WRAPPERS, "sparc_pretrain.pretraining.pretrainer")
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS, "sparc_pretrain.engine")
DATA_SAMPLERS = _child(
    roots.DATA_SAMPLERS, "sparc_pretrain.data.sampler", "sparc_pretrain.pretraining.held_out"
)
DATASETS = _child(roots.DATASETS, "sparc_pretrain.data.dataset")
HOOKS = _child(
    roots.HOOKS,
    "sparc_pretrain.engine",
    # these need the towers, which `sparc_pretrain.engine` alone does without
    "sparc_pretrain.pretraining.hooks",
    "sparc_pretrain.pretraining.zeroshot_hook",
)
LOOPS = _child(
    roots.LOOPS, "sparc_pretrain.pretraining.held_out", "sparc_pretrain.pretraining.delivery"
)
PARAM_SCHEDULERS = _child(roots.PARAM_SCHEDULERS, "sparc_pretrain.pretraining.schedules")
METRICS = _child(roots.METRICS, "sparc_pretrain")
OBJECTIVES = Registry("objective", scope="sparc", locations=["sparc_pretrain.objectives"])

# What an argument that a file gives may be: files describe parts by numbers and words.
PLAIN = (bool, int, float, str, type(None))


def _is_plain(value: Any, declared: str) -> bool:
    """A number or a word; a list or dict of them where the constructor declares a Sequence or a
    Mapping.
    """
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
        return "Mapping" in declared and all(isinstance(one, PLAIN) for one in parts)
    if isinstance(value, list):
        return "Sequence" in declared and all(isinstance(one, PLAIN) for one in value)
    return isinstance(value, PLAIN)


def parameters_of(kind: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """What a function or the constructor of a class takes, by name, ``**kwargs`` followed up the
    class hierarchy (mm classes hand them to their parent); whether it takes any other name too.
    """
    found: dict[str, inspect.Parameter] = {}
    for cls in kind.__mro__ if inspect.isclass(kind) else (kind,):
        initialiser = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if initialiser is None or cls is object:
            continue
        own = list(inspect.signature(initialiser).parameters.values())[inspect.isclass(cls) :]
        for one in own:
            if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
                found.setdefault(one.name, one)
        if not any(one.kind is one.VAR_KEYWORD for one in own):
            return found, False
    return found, True


def build_described(registry: Registry, described: Mapping[str, Any], source: str) -> Any:
    """Build what a *file* describes. mmengine's own `build` imports and calls whatever a dotted
    `type` names, and looks into parent registries: that is for configs, which are programs.

    Args:
        described: `type`, a name of the registry's own table, and keyword arguments of its
            constructor: numbers and words, and lists or dicts of them that it declares. source: the
            file, for the messages.

    Raises:
        ValueError: any other name, argument or value, or one that the constructor refuses.
    """
    registry.import_from_location()
    arguments = dict(described)
    kind = arguments.pop("type", None)
    known = registry.module_dict
    if not isinstance(kind, str) or kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else f": it is one of {sorted(known)}"
        raise ValueError(f"{source}: {kind!r} is no {registry.name} of this code{hint}")
    taken = parameters_of(known[kind])[0]
    for name, value in arguments.items():
        if name not in taken or taken[name].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise ValueError(f"{source}: {kind} takes no argument {name!r}, only {list(taken)}")
        if not _is_plain(value, str(taken[name].annotation)):
            raise ValueError(f"{source}: {kind} {name}={value!r} is neither a number nor a word")
    try:
        return known[kind](**arguments)
    except (TypeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source}: {kind} cannot be built: {reason}") from None
