"""Modules that a run folder describes, first on paper: what its config asks for is compared with
the weights that lie beside it before a byte of memory is taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sparc_pretrain.run_folder import CONFIG, WEIGHTS, InvalidRunFolder, RunFolder

# Parameters made on the way for each that stays: transformers builds heads that are not used. The
# names and shapes are compared one by one afterwards.
DROPPED = 4
# What timm, torch, transformers and open_clip answer a strange size or word with.
REFUSALS = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    AssertionError,
)
Shapes = Mapping[str, tuple[int, ...]]
Module = TypeVar("Module", bound=nn.Module)


class TooLarge(ValueError):
    """More parameters than there are weights for."""


def draw(run: RunFolder, prefix: str, build: Callable[[], Module]) -> Module:
    """The module that `build` makes of the config of `run`, on the meta device: without memory, and
    with exactly the weights that the folder has under `prefix`.

    Raises:
        InvalidRunFolder: naming config.json, when nothing can be built of it; naming both files,
            when the weights are those of another module.
    """
    shapes = {k: v for k, v in run.shapes(prefix).items() if prefix or not _of_objective(k)}
    place = run.path / CONFIG
    try:
        told = f"{place} describes a model with more weights than {WEIGHTS} beside it holds"
        with torch.device("meta"), at_most(sum(map(prod, shapes.values())), told):
            drawn = build()
    except TooLarge as error:
        raise InvalidRunFolder(str(error)) from None
    except REFUSALS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        told = reason if str(place) in reason else f"{place}: {reason}"
        raise InvalidRunFolder(told) from None
    wrong = misfit(shapes_of(drawn.state_dict()), shapes)
    if wrong:
        raise InvalidRunFolder(f"{run.path}: weights do not fit its config: {wrong}")
    return drawn


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """name -> shape of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def misfit(wanted: Shapes, found: Shapes) -> str | None:
    """How weights differ from what a module wants, the first names of each kind; None if not."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    shapes = [
        f"{name} {found[name]} for {wanted[name]}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    if not (missing or unknown or shapes):
        return None
    return (
        f"{len(missing)} keys missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
        f"{len(shapes)} of other shapes {shapes[:3]}"
    )


def materialise(drawn: nn.Module, weights: Mapping[str, Tensor], made: Iterable[nn.Module]) -> None:
    """Put `weights` into a module that was drawn; nothing is initialised at random before.

    Args:
        made: modules whose buffers the caller makes again, since no file holds them.

    Raises:
        NotImplementedError: a buffer outside of them that no file holds.
    """
    drawn.load_state_dict(weights, assign=True)
    own = {id(module) for module in made}
    for module in drawn.modules():
        computed = getattr(module, "init_non_persistent_buffers", None)  # timm's way to say how
        if computed is not None and id(module) not in own:
            for name in module._non_persistent_buffers_set:
                if (buffer := getattr(module, name)) is not None:
                    setattr(module, name, torch.empty_like(buffer, device="cpu"))
            computed()
            continue
        for name in module._non_persistent_buffers_set:
            buffer = getattr(module, name)
            if name == "position_ids":  # of transformers: 0, 1, 2, ...
                setattr(module, name, torch.arange(buffer.shape[-1]).expand(buffer.shape))
            elif id(module) not in own:
                raise NotImplementedError(f"{type(module).__name__}.{name} is in no run folder")


def _of_objective(name: str) -> bool:
    return name.startswith("objective.")


@contextmanager
def at_most(elements: int, told: str) -> Iterator[None]:
    """Raises TooLarge, saying `told`, as soon as the modules that are being built have more
    parameters, those that are dropped on the way (`DROPPED`) aside.
    """
    held = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal held
        held += 0 if parameter is None else parameter.numel()
        if held > DROPPED * elements:
            raise TooLarge(told)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
