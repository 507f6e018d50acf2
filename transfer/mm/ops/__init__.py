"""mmcv's ops without its compiled kernels: the module that answers to ``mmcv._ext``."""

from transfer.mm.ops.standin import (
    EXTENSION,
    KERNELS,
    SWITCH,
    StandIn,
    compile_command,
    install,
    is_standin,
    using,
)

__all__ = [
    "EXTENSION",
    "KERNELS",
    "SWITCH",
    "StandIn",
    "compile_command",
    "install",
    "is_standin",
    "using",
]
