"""(any mm config, run folder) -> the same config on that run's backbone."""

from transfer.plug.config import explain, layer_wise, note_ancestry, plug, read, scope_of

__all__ = ["explain", "layer_wise", "note_ancestry", "plug", "read", "scope_of"]
