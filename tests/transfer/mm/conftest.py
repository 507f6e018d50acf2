import types
from collections.abc import Iterator

import pytest

from transfer.mm import ops


@pytest.fixture
def standin() -> Iterator[types.ModuleType]:
    """On the stand-in, also where mmcv is compiled."""
    with ops.using("standin") as module:
        yield module
