"""(any mm config, run folder) -> the same config on that run's backbone."""

from transfer.plug.config import adopt_own, explain, layer_wise, plug, read, scope_of

__all__ = ["adopt_own", "explain", "layer_wise", "plug", "read", "scope_of"]
