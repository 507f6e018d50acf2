"""The range server that is written to as well, as S3 and Google's storage are: whole files, files
in parts, deletions.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote

from tools.measure.range_server import Handler, Server, serving

CHANGES = ("PUT", "POST", "DELETE")


class BucketHandler(Handler):
    """A change is made whole, or not at all. `server.written` lists the changes, `(method, path)`;
    after `server.most_changes` of them none is let in any more, as after a death, which
    `server.victim`, a process, then dies.
    """

    def do_PUT(self) -> None:
        self._change()

    do_POST = do_DELETE = do_PUT

    def _change(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        server.__dict__.setdefault("written", [])
        self._serve(self._changed)

    def _changed(self, url: SplitResult, wanted: object, cut: bool) -> None:
        server, query = self.server, parse_qs(url.query, keep_blank_values=True)
        path = unquote(url.path)
        with server.lock:
            left = getattr(server, "most_changes", None)
            if left is not None and len(server.written) >= left:
                if victim := getattr(server, "victim", None):
                    os.kill(victim, signal.SIGKILL)
                return self._send(403, b"", {})
            server.written.append((self.command, path))
            status, data, headers = self._make(path, query)
        self._send(status, data, headers, cut)

    def _make(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        server = self.server
        file, parts = server.folder / path.lstrip("/"), server.__dict__.setdefault("parts", {})
        if not (server.folder / path.split("/")[1]).is_dir():
            return 404, b"<Error><Code>NoSuchBucket</Code></Error>", {}
        tag = {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}
        if "delete" in query:
            keys = re.findall(r"<Key>(.*?)</Key>", self.body.decode())
            for key in keys:
                (file / key).unlink(missing_ok=True)
            rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return 200, f"<DeleteResult>{rows}</DeleteResult>".encode(), {}
        if self.command == "DELETE":
            there = file.exists()
            file.unlink(missing_ok=True)
            return 204 if there else 404, b"", {}
        if "uploads" in query:
            name = f"upload{len(parts)}"
            parts[name] = {}
            text = f"<Bucket>b</Bucket><Key>k</Key><UploadId>{name}</UploadId>"
            text = f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>"
            return 200, text.encode(), {}
        if "partNumber" in query:
            parts[query["uploadId"][0]][int(query["partNumber"][0])] = self.body
            return 200, b"", tag
        data = self.body
        if "uploadId" in query:
            data = b"".join(part for _, part in sorted(parts.pop(query["uploadId"][0]).items()))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        text = "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        return 200, text.encode() if "uploadId" in query else b"", tag


def buckets(folder: Path) -> AbstractContextManager[Server]:
    """A server whose buckets are the folders of `folder`."""
    return serving(folder, BucketHandler)
