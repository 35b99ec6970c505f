"""A server of records and their files, for tests of downloads."""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from emorec.datasets import download


class Server(ThreadingHTTPServer):
    """Serves a record as Zenodo does, and its files with ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.cut_after: int | None = None  # ends the next response after this many bytes
        self.takes_ranges = True
        self.bodies: dict[str, Iterable[bytes]] = {}  # blocks of other answers, by path, sent without their length
        self.sent = 0  # bytes of `bodies`

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def record(self) -> dict[str, Any]:
        return {
            "files": [
                {
                    "key": name,
                    "size": len(content),
                    "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                    "links": {"self": f"{self.address}/files/{name}"},
                }
                for name, content in self.files.items()
            ]
        }


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path in self.server.bodies:
            self._stream(self.server.bodies[self.path])
            return
        if self.path == "/record":
            self._respond(200, json.dumps(self.server.record()).encode())
            return
        content = self.server.files.get(self.path.rpartition("/")[2])
        if content is None:
            self._respond(404, b"")
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if wanted and self.server.takes_ranges:
            self._respond(206, content[int(wanted.removeprefix("bytes=").rstrip("-")) :])
        else:
            self._respond(200, content)

    def _respond(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(content[:cut])

    def _stream(self, blocks: Iterable[bytes]) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):  # the client has enough
            for block in blocks:
                self.wfile.write(block)
                self.server.sent += len(block)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
