"""Addresses of files in an object store or on a web server: s3://, gs://, https:// and http://.

Who may read is told by the environment alone (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS,
...). An address is logged, and stands in configs and records: one that holds a password or a signed
query is refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REMOTE = re.compile(r"(?:s3|gs|https?)://")
REMEDY = "pip install 'sparc-transfer[remote]', or pip install obstore"


@dataclass(frozen=True)
class Address:
    """One file's address. `text` has neither user nor query: see `address`."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def root(self) -> str:
        """Scheme and host, or bucket."""
        parts = urlsplit(self.text)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        """What follows the root, as it is called there."""
        path = self.text[len(self.root) + 1 :]
        return unquote(path) if self.text.startswith("http") else path

    @property
    def name(self) -> str:
        """The last part, as a file's name."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def above(self) -> Address:
        """The folder that this is in; at the root, the root."""
        above = self.text.rpartition("/")[0]
        return Address(above if len(above) >= len(self.root) else self.root)

    def beside(self, ending: str) -> Address:
        """The file of the same name with `ending` behind it."""
        return Address(self.text + ending)

    def inside(self, name: str) -> Address:
        """The file `name` of this folder."""
        return Address(f"{self.text}/{name}")


def is_remote(name: object) -> bool:
    """Whether this is an address that can be read."""
    return bool(REMOTE.match(str(name)))


def address(text: str) -> Address:
    """The checked address `text`.

    Raises ValueError for one that holds a password or a query, or names no file; ImportError, with
    the remedy, where obstore is missing.
    """
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    if parts.netloc != host:
        raise ValueError(
            f"{parts.scheme}://{host}/...: an address must hold no user or password, it is logged; "
            "credentials come from the environment, see docs/data.md"
        )
    if parts.scheme.startswith("http") and ("?" in text or "#" in text):
        raise ValueError(
            f"{parts.scheme}://{host}{parts.path}: an address with a query cannot be used: signed "
            "ones are secret and end; give s3:// or gs:// with credentials in the environment"
        )
    if not host or not parts.path.strip("/"):
        raise ValueError(f"{text}: an address is scheme://host/path.tar, or s3://bucket/path.tar")
    library()
    return Address(text)


def cache(of: str) -> Path | None:
    """The folder in the user's cache for what came from addresses; None without a user's home."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    place = Path(folder, "sparc_pretrain", of)
    return place if place.is_absolute() else None


def library() -> Any:
    """obstore. Raises ImportError with the remedy."""
    # its threads carry bytes and wait; one per core in every loader worker would be thousands
    os.environ.setdefault("TOKIO_WORKER_THREADS", "2")
    try:
        import obstore
    except ImportError:
        raise ImportError(f"addresses are read with obstore, which is missing: {REMEDY}") from None
    return obstore
