"""Batch norms of models that one process trains."""

from __future__ import annotations

from typing import Any

from sparc_pretrain.config_tree import dicts

SYNCHRONISED = ("SyncBN", "MMSyncBN", "naiveSyncBN")


def single_process_norms(node: Any) -> None:
    """SyncBN -> BN everywhere below `node`, in place: one process without a group has nothing to
    exchange.
    """
    for _, part in dicts(node):
        if part.get("type") in SYNCHRONISED:
            part["type"] = "BN"
