"""A client of a test's own for the stores that `tools.measure.range_server` stands for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparc_pretrain.data import remote
from tools.measure.range_server import Server


def alone(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No proxy, nobody signed in, no waiting between two tries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(remote, "_client", remote._Client())


def at_s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stands for S3; its folders are buckets."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)


def at_gs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stands for Google's storage; its folders are buckets."""
    key = dict(gcs_base_url=server.address, disable_oauth=True, client_email="", private_key="")
    key["private_key_id"] = ""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
