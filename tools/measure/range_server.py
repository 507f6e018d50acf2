"""A web server on the loopback that answers ranges and, asked so, is slow, broken or without them;
also what S3 and Google's storage answer to reading and listing, for their clients.

    python tools/measure/range_server.py FOLDER --latency 0.02    prints its address, serves until
                                                                  its standard input ends
"""

from __future__ import annotations

import argparse
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

RANGE = re.compile(r"bytes=(\d+)-(\d+)")
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Server(ThreadingHTTPServer):
    """Serves `folder`. What tests set: `latency` in seconds; `hold`, how many requests must be
    there before any is answered; `faults`, what the next answers are instead, one taken by each (a
    status, 'reset', 'cut', or None), or `always` for all of them; `ranges`, `tags` whether it knows
    these; `secret` that a request must carry. What they read: `asked`, the path and range of each
    request; `most`, how many were there at a time.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.folder, self.latency, self.hold = folder, 0.0, 0
        self.faults: list[int | str | None] = []
        self.always: int | str | None = None
        self.ranges = self.tags = True
        self.secret = ""
        self.asked: list[tuple[str, tuple[int, int] | None]] = []
        self.now = self.most = 0
        self.lock = threading.Condition()

    @property
    def address(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """A client that is gone is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(self._get)

    def _get(self, url: SplitResult, wanted: tuple[int, int] | None, cut: bool) -> None:
        if url.query:
            self._list(url.path, parse_qs(url.query, keep_blank_values=True))
        else:
            self._file(unquote(url.path), wanted, cut)

    def _serve(self, answer: Callable[[SplitResult, tuple[int, int] | None, bool], None]) -> None:
        """Answer, in time and with what is to go wrong."""
        server = self.server
        url = urlsplit(self.path)
        found = RANGE.fullmatch(self.headers.get("Range", ""))
        wanted = (int(found[1]), int(found[2])) if found else None
        with server.lock:
            server.asked.append((unquote(url.path), wanted))
            fault = server.faults.pop(0) if server.faults else server.always
            server.now += 1
            server.most = max(server.most, server.now)
            server.lock.notify_all()
            server.lock.wait_for(lambda: server.most >= server.hold, timeout=60)
        try:
            time.sleep(server.latency)
            if server.secret and server.secret not in self.headers.get("Authorization", ""):
                fault = 403
            if fault == "reset":
                self._reset()
            elif isinstance(fault, int):
                self._send(fault, f"no, token {server.secret}".encode(), {})
            else:
                answer(url, wanted, fault == "cut")
        finally:
            with server.lock:
                server.now -= 1

    def _file(self, path: str, wanted: tuple[int, int] | None, cut: bool) -> None:
        file = self.server.folder / path.lstrip("/")
        if not file.is_file():
            return self._send(404, b"", {})
        stat = file.stat()
        headers = {}
        if self.server.tags:
            headers = {"ETag": f'"{stat.st_mtime_ns:x}"'}
            headers["Last-Modified"] = formatdate(stat.st_mtime, usegmt=True)
        status, begin, end = 200, 0, stat.st_size
        if wanted and self.server.ranges:
            begin, end = wanted[0], min(wanted[1] + 1, stat.st_size)
            if begin >= end:
                return self._send(416, b"", {})
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{stat.st_size}"
            status = 206
        with file.open("rb") as opened:
            opened.seek(begin)
            data = opened.read(end - begin)
        return self._send(status, data, headers, cut)

    def _list(self, path: str, query: dict[str, list[str]]) -> None:
        bucket = self.server.folder / path.strip("/")
        prefix = query.get("prefix", [""])[0]
        names = sorted(str(p.relative_to(bucket)) for p in bucket.rglob("*") if p.is_file())
        here = [n for n in names if n.startswith(prefix) and "/" not in n[len(prefix) :]]
        rows = "".join(
            f"<Contents><Key>{name}</Key><Size>{(bucket / name).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag></Contents>"
            for name in here
        )
        below = {n[: n.index("/", len(prefix)) + 1] for n in names if n.startswith(prefix)
                 and "/" in n[len(prefix) :]}  # fmt: skip
        for name in sorted(below):
            rows += f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
        text = f'<ListBucketResult xmlns="{NAMESPACE}"><Name>b</Name><KeyCount>{len(here)}'
        text += f"</KeyCount><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        self._send(200, text.encode(), {"Content-Type": "application/xml"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


@contextmanager
def serving(folder: Path, handler: type[Handler] = Handler) -> Iterator[Server]:
    """A server of `folder`, for as long as the block lasts."""
    with Server(folder, handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def elsewhere(folder: Path, latency: float) -> Iterator[str]:
    """The address of a server in a process of its own, for as long as the block lasts; latency: of
    every answer, seconds.
    """
    words = [sys.executable, __file__, str(folder), "--latency", str(latency)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child.stdout.readline().strip()
        finally:
            child.stdin.close()


def main() -> None:
    """Serve until nobody holds the standard input any more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="of every answer, seconds")
    args = parser.parse_args()
    with serving(args.folder) as server:
        server.latency = args.latency
        print(server.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
