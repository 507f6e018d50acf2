"""The contract that every objective derives from."""

from __future__ import annotations

import pytest
from torch import nn

from sparc_pretrain.objectives.base import Objective


@pytest.mark.parametrize("name", ["match", "ground", "dense_patches", "scores"])
def test_a_module_cannot_hide_behind_a_name_of_the_contract(name: str) -> None:
    class Mine(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            setattr(self, name, nn.Linear(2, 2))

    with pytest.raises(AttributeError, match=rf"Mine\.{name} is .* give the module another name"):
        Mine()
