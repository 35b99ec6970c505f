"""Downloads from a local server are resumed and verified, and hostile archives are refused."""

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.client import BadStatusLine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from emorec.datasets import download
from emorec.datasets.download import PARTIAL, RemoteFile, fetch, fetch_archives, read_record, unpack
from emorec.datasets.fixtures.media import write_sound
from emorec.datasets.ravdess import Ravdess
from emorec.errors import UserError

pytestmark = pytest.mark.slow


class Server(ThreadingHTTPServer):
    """Serves a record as Zenodo does, and its files with ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.cut_after: int | None = None  # ends the next response after this many bytes
        self.takes_ranges = True

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

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: Server, name: str) -> RemoteFile:
    return read_record(f"{server.address}/record")[name]


def packed(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


CONTENT = bytes(range(256)) * 40_000  # 10 MB


def test_a_record_that_is_cut_off_is_a_user_error(server: Server) -> None:
    server.files["a.zip"] = b"content"
    server.cut_after = 10
    with pytest.raises(UserError, match="expected a record's description"):
        remote(server, "a.zip")


def test_a_malformed_response_is_tried_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["a.zip"] = CONTENT
    item = remote(server, "a.zip")
    opened, responses = download._open, iter([BadStatusLine("nonsense")])

    def open_at_the_second_attempt(*arguments: Any) -> Any:
        for error in responses:
            raise error
        return opened(*arguments)

    monkeypatch.setattr(download, "_open", open_at_the_second_attempt)
    assert fetch(item, tmp_path / "a.zip", progress=False).read_bytes() == CONTENT


def test_a_file_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    path = fetch(remote(server, "a.zip"), tmp_path / "a.zip", progress=False)
    assert path.read_bytes() == CONTENT
    assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]


def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    item = remote(server, "a.zip")
    server.cut_after = 5_000_000
    assert fetch(item, tmp_path / "a.zip", progress=False).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=5000000-"]


def test_a_partial_file_is_resumed_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    (tmp_path / f"a.zip{PARTIAL}").write_bytes(CONTENT[:3_000_000])
    assert fetch(remote(server, "a.zip"), tmp_path / "a.zip", progress=False).read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"], server.takes_ranges = CONTENT, False
    (tmp_path / f"a.zip{PARTIAL}").write_bytes(CONTENT[:3_000_000])
    assert fetch(remote(server, "a.zip"), tmp_path / "a.zip", progress=False).read_bytes() == CONTENT


def test_a_file_with_a_wrong_digest_is_removed_and_is_an_error(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    item = remote(server, "a.zip")
    server.files["a.zip"] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match="expected MD5"):
        fetch(item, tmp_path / "a.zip", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip").write_bytes(CONTENT)
    fetch(remote(server, "a.zip"), tmp_path / "a.zip", progress=False)
    assert server.ranges == []


def test_a_missing_file_is_an_error_without_retries(server: Server, tmp_path: Path) -> None:
    item = RemoteFile("b.zip", f"{server.address}/files/b.zip", 10, "0" * 32)
    with pytest.raises(UserError, match="404"):
        fetch(item, tmp_path / "b.zip", progress=False)


def test_an_unreachable_server_is_an_error_after_retries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    item = RemoteFile("b.zip", "http://127.0.0.1:9/b.zip", 10, "0" * 32)
    with pytest.raises(UserError, match="run the same command to resume"):
        fetch(item, tmp_path / "b.zip", progress=False)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_only_web_addresses_are_opened(address: str) -> None:
    with pytest.raises(UserError, match="expected an address that starts with"):
        read_record(address)


def test_a_page_that_is_not_a_record_is_an_error(server: Server) -> None:
    server.files["page"] = b"<html>"
    with pytest.raises(UserError, match="expected a record's description"):
        read_record(f"{server.address}/files/page")


def test_an_archive_is_downloaded_and_unpacked_once(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = packed({"Actor_01/a.wav": b"one", "Actor_02/b.wav": b"two"})
    files = [remote(server, "a.zip")]
    assert fetch_archives(files, tmp_path, progress=False) == 1
    assert (tmp_path / "a" / "Actor_02" / "b.wav").read_bytes() == b"two"
    assert not (tmp_path / "a.zip").exists()
    assert fetch_archives(files, tmp_path, progress=False) == 0
    assert len(server.ranges) == 1


def link_entry() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("innocent.wav")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.wav", "leads out"),
        ("/tmp/outside.wav", "leads out"),
        ("a/../../outside.wav", "leads out"),
        ("..\\outside.wav", "leads out"),
        ("C:/outside.wav", "leads out"),
        (link_entry(), "a link or a device"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, name: Any, message: str) -> None:
    archive, folder = tmp_path / "hostile.zip", tmp_path / "in" / "corpus"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("good.wav", b"good")
        stream.writestr(name, b"/etc/passwd")
    with pytest.raises(UserError, match=message):
        unpack(archive, folder)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("zeros", bytes(20_000_000))
    with pytest.raises(UserError, match="more than 100 times"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")


def test_a_damaged_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    content = bytearray(packed({"a.wav": bytes(1000), "b.wav": bytes(range(250)) * 4}))
    index = content.rindex(bytes(range(200)))
    content[index + 5] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(bytes(content))
    with pytest.raises(UserError, match="expected a whole ZIP file"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*.wav")]


def test_the_command_downloads_a_part_of_a_corpus(
    server: Server, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sound(tmp_path / "a.wav", seconds=0.2)
    sound = (tmp_path / "a.wav").read_bytes()
    names = [f"Actor_{actor:02d}/03-01-0{emotion}-01-01-01-{actor:02d}.wav" for actor in (1, 2) for emotion in (3, 5)]
    server.files["Audio_Speech_Actors_01-24.zip"] = packed(dict.fromkeys(names, sound))
    words = ["data", "download", "dataset=ravdess", f"dataset.root={tmp_path / 'ravdess'}", "parts=[speech_audio]"]
    assert main([*words, f"sources.ravdess={server.address}/record"]) == 0
    assert "1 downloaded now" in capsys.readouterr().out
    corpus = Ravdess(root=str(tmp_path / "ravdess"), task="emotion", protocol="five_fold", fold=0)
    assert len(corpus.scan().utterances) == 4
    assert main([*words, f"sources.ravdess={server.address}/record"]) == 0
    assert "0 downloaded now" in capsys.readouterr().out


def test_the_command_lists_the_available_parts_and_corpora(
    server: Server, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "download", "dataset=ravdess", "parts=[everything]"]) == 2
    assert "video_01" in capsys.readouterr().err
    assert main(["data", "download", "dataset=meld"]) == 2
    assert "ravdess" in capsys.readouterr().err
