"""Batch norms of models that one process trains."""

from __future__ import annotations

from typing import Any

SYNCHRONISED = ("SyncBN", "MMSyncBN", "naiveSyncBN")


def single_process_norms(node: Any) -> None:
    """SyncBN -> BN everywhere below `node`, in place: one process without a group has nothing to
    exchange.
    """
    if isinstance(node, dict):
        if node.get("type") in SYNCHRONISED:
            node["type"] = "BN"
        for value in node.values():
            single_process_norms(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            single_process_norms(value)
