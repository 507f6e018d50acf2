"""The parameter groups of an optimizer, read by name."""

from __future__ import annotations

from typing import Any

from torch import nn


def groups_of(model: nn.Module, built: Any) -> dict[str, tuple[float, float]]:
    """Name of each trained parameter -> (learning rate, weight decay); each is in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in built.optimizer.param_groups:
        for weight in group["params"]:
            assert names[id(weight)] not in found
            found[names[id(weight)]] = (group["lr"], group["weight_decay"])
    return found


def matrices(model: nn.Module) -> set[str]:
    """The parameters that decay, found from the other side: the weights of linear layers,
    convolutions and attentions, word embeddings (not those of positions) and MGCA's prototypes.
    """
    direct = ("prototypes", "in_proj_weight")
    found = set()
    for prefix, part in model.named_modules():
        position = "position" in prefix
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.Embedding)) and not position:
            found.add(f"{prefix}.weight".lstrip("."))
        found |= {f"{prefix}.{n}" for n, _ in part.named_parameters(recurse=False) if n in direct}
    return found


def assert_only_matrices_decay(model: nn.Module, built: Any, decay: float) -> None:
    """Matrices at `decay`, the rest at 0, whatever their learning rates."""
    groups = built.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, decay}
    found = groups_of(model, built)
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, (_, wd) in found.items() if wd} == matrices(model) & found.keys()
