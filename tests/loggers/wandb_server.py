"""A stand-in for the server of W&B, on this machine: says yes to all, and keeps what it was sent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "laboratory"


class WandbServer(ThreadingHTTPServer):
    """A stand-in for the server of W&B.

    Attributes:
        requests: path and content of each.
        runs: {run id: what was said of it}.
        lines: {run id: the rows of its history}.
        summaries: {run id: the last summary}.
        exit_codes: {run id: exit code}.
        broken: answers every request with an error.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, bytes]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.exit_codes: dict[str, int] = {}
        self.broken = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, text))
        if self.server.broken:
            self.send_error(500)
        elif self.path == "/graphql":
            self._answer({"data": self._data(json.loads(text))})
        else:
            if self.path.endswith("/file_stream"):
                self._stream(json.loads(text))
            self._answer({"exitcode": None, "limits": {}})

    def do_PUT(self) -> None:
        self.server.requests.append((self.path, self.rfile.read(int(self.headers.get("Content-Length", 0)))))
        self._answer({})

    do_GET = do_PUT

    def _answer(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, body: dict[str, Any]) -> None:
        run = self.path.split("/")[-2]
        for name, part in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                self.server.lines.setdefault(run, []).extend(json.loads(line) for line in part["content"])
            elif name == "wandb-summary.json":
                self.server.summaries[run] = json.loads(part["content"][-1])
        if body.get("complete"):
            self.server.exit_codes[run] = body["exitcode"]

    def _data(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911
        query, variables = body["query"], body.get("variables") or {}
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._upserted(variables), "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.address}/file"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": []}}
        if "createArtifact(" in query:  # it is there already
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if "project(" in query:
            return {"project": {"artifact": None}}
        if "bucket(" in query:
            name = variables.get("name")
            known = name in self.server.runs
            return {
                "model": {
                    "id": "m",
                    "name": "p",
                    "entity": {"id": "e", "name": ENTITY},
                    "bucket": self._resumed(name) if known else None,
                }
            }
        return {"viewer": {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _resumed(self, name: str) -> dict[str, Any]:
        lines = self.server.lines.get(name, [])
        tail = [json.dumps(lines[-1])] if lines else []
        return {
            "name": name,
            "id": name,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "summaryMetrics": "{}",
            "config": "{}",
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _upserted(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name")
        self.server.runs.setdefault(name, {}).update({k: v for k, v in variables.items() if v is not None})
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": ENTITY}}
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "description": None,
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": 0,
        }


@contextmanager
def serving() -> Iterator[WandbServer]:
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
