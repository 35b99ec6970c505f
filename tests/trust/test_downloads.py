"""Servers that never end and archives that lead elsewhere cost one file each, and leave nothing behind."""

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emorec.config.schema import DownloadConfig
from emorec.datasets import download, records
from emorec.datasets.archives import unpack
from emorec.datasets.download import fetch, fetch_files
from emorec.datasets.records import RemoteFile, read_record
from emorec.errors import UserError
from tests.datasets.record_server import Server, server

__all__ = ["server"]  # a fixture

LIMITS = DownloadConfig()
IMPATIENT = DownloadConfig(timeout=0.2, slowest=1e5)
CANARY = b"the canary"


def offered(server: Server, name: str, content: bytes, size: int | None = None) -> RemoteFile:
    digest = f"md5:{hashlib.md5(content).hexdigest()}"
    return RemoteFile(name, f"{server.address}/{name}", len(content) if size is None else size, digest)


def endless() -> Iterator[bytes]:
    return itertools.repeat(bytes(10_000))


def dripping() -> Iterator[bytes]:
    while True:
        yield b"x"
        time.sleep(0.005)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Servers


def test_a_body_that_is_longer_than_its_record_stops_at_once(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"] = endless()
    with pytest.raises(UserError, match="expected at most 1000 bytes, got more"):
        fetch(offered(server, "a.zip", bytes(1000)), tmp_path / "a.zip", LIMITS, progress=False)
    assert server.sent < 20_000_000
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.parent / "canary")])
def test_nothing_is_appended_to_what_is_planted(server: Server, tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "canary").write_bytes(CANARY)
    make(tmp_path / f"a.zip{download.PARTIAL}")
    server.files["a.zip"] = b"content"
    assert fetch(offered(server, "a.zip", b"content"), tmp_path / "a.zip", LIMITS, progress=False)
    assert (tmp_path / "canary").read_bytes() == CANARY
    assert (tmp_path / "a.zip").read_bytes() == b"content"


def test_a_body_of_unknown_length_ends_where_the_config_says(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.wav"] = endless()
    item = RemoteFile("a.wav", f"{server.address}/a.wav", None, f"git:{0:040}")
    with pytest.raises(UserError, match="expected at most 5000 bytes"):
        fetch(item, tmp_path / "a.wav", DownloadConfig(largest=5000), progress=False)


def test_a_body_that_drips_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.bodies["/a.zip"] = dripping()
    with pytest.raises(UserError, match="expected at least 100000 bytes in a second"):
        fetch(offered(server, "a.zip", bytes(1_000_000)), tmp_path / "a.zip", IMPATIENT, progress=False)


def zenodo(**changes: object) -> list[bytes]:
    item = {"key": "a", "links": {"self": "http://127.0.0.1/a"}, "size": 1, "checksum": f"md5:{0:032}"}
    return [json.dumps({"files": [item | changes]}).encode()]


def hugging_face(path: str) -> list[bytes]:
    return [json.dumps([{"type": "file", "path": path, "oid": "0" * 40, "size": 1}]).encode()]


RECORDS = {
    "deep": [b"[" * 200_000],
    "endless": endless(),
    "dripping": dripping(),
    "no object": [b"1"],
    "other types": [b'{"files": [{"key": 1, "links": 2}]}'],
    "negative": zenodo(size=-1),
    "no digest": zenodo(checksum="md5:"),
    "outside": hugging_face("../a"),
    "absolute": hugging_face("/a"),
}


@pytest.mark.parametrize("body", RECORDS.values(), ids=RECORDS)
def test_a_hostile_record_is_one_message(server: Server, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_RECORD", 1_000_000)
    server.bodies["/record"] = body
    with pytest.raises(UserError, match=r"expected .*, got"):
        read_record(f"{server.address}/record", "a", IMPATIENT)


# Archives


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(*entries: tuple[tarfile.TarInfo, bytes], compressed: bool = True) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 6) if compressed else stream.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def content(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, len(data)), data


GOOD = content("good.wav", b"good")
HOSTILE_TARS: dict[str, Callable[[Path], bytes]] = {
    "parent": lambda outside: tarred(GOOD, content("../canary", b"x")),
    "absolute": lambda outside: tarred(GOOD, content(str(outside), b"x")),
    "link": lambda outside: tarred(
        GOOD, (entry("a", kind=tarfile.SYMTYPE, linkname=str(outside)), b""), content("a", b"x")
    ),
    "hard link": lambda outside: tarred(GOOD, (entry("a", kind=tarfile.LNKTYPE, linkname=str(outside)), b"")),
    "pipe": lambda outside: tarred(GOOD, (entry("a", kind=tarfile.FIFOTYPE), b"")),
    "device": lambda outside: tarred(GOOD, (entry("a", kind=tarfile.CHRTYPE), b"")),
    "file as folder": lambda outside: tarred(GOOD, content("good.wav/a", b"x")),
    "long name": lambda outside: tarred(GOOD, content("a" * 5000, b"x")),
    "ratio": lambda outside: tarred(GOOD, content("zeros", bytes(3_000_000))),
    "extended header": lambda outside: tarred(GOOD, (entry("a", pax_headers={"comment": "x" * 3_000_000}), b"")),
    "truncated": lambda outside: tarred(GOOD, content("a", bytes(range(256)) * 50))[:-50],
    "no archive": lambda outside: CANARY,
    "bomb in a tar": lambda outside: tarred(
        GOOD, content("a.tar.gz", tarred(content("zeros", bytes(10_000_000)))), compressed=False
    ),
    "link in a tar": lambda outside: tarred(
        GOOD, content("a.tar", tarred((entry("b", kind=tarfile.SYMTYPE, linkname=str(outside)), b""), compressed=False))
    ),
}


@pytest.mark.parametrize("make", HOSTILE_TARS.values(), ids=HOSTILE_TARS)
def test_a_hostile_tar_is_refused_and_nothing_is_unpacked(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    (tmp_path / "canary").write_bytes(CANARY)
    archive = tmp_path / "a.tar.gz"
    packed = make(tmp_path / "canary")
    archive.write_bytes(packed if packed[:2] == b"\x1f\x8b" or packed == CANARY else gzip.compress(packed))
    with pytest.raises(UserError, match=r"the archive .* is refused|expected a whole archive"):
        unpack(archive, tmp_path / "corpus", LIMITS)
    assert (tmp_path / "canary").read_bytes() == CANARY
    assert files_below(tmp_path) == ["a.tar.gz", "canary"]


def test_a_tar_is_unpacked_and_the_tars_in_it(tmp_path: Path) -> None:
    inner = tarred(content("train_splits/a.mp4", b"clip"), content("train_sent_emo.csv", b"table"))
    folder = (entry("MELD.Raw", kind=tarfile.DIRTYPE), b"")
    (tmp_path / "a.tar.gz").write_bytes(tarred(folder, content("MELD.Raw/train.tar.gz", inner)))
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "corpus", LIMITS) == 2
    assert files_below(tmp_path / "corpus") == ["MELD.Raw/train_sent_emo.csv", "MELD.Raw/train_splits/a.mp4"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_is_bounded_by_its_absolute_size_too(tmp_path: Path, name: str) -> None:
    data = bytes(range(256)) * 200
    (tmp_path / name).write_bytes(zipped(a=data) if name == "a.zip" else tarred(content("a", data)))
    with pytest.raises(UserError, match=r"bytes unpacked or more, which is more than 50000"):
        unpack(tmp_path / name, tmp_path / "corpus", DownloadConfig(largest=50_000, ratio=10_000))
    assert unpack(tmp_path / name, tmp_path / "corpus", DownloadConfig(largest=100_000, ratio=10_000)) == 1


def test_a_link_in_the_corpus_does_not_lead_an_archive_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.wav").write_bytes(CANARY)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "Actor_01").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / ".a.zip.unpacking").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a.zip").write_bytes(zipped(**{"Actor_01/a.wav": b"x"}))
    with pytest.raises(UserError, match="found links out of it"):
        unpack(tmp_path / "a.zip", tmp_path / "corpus", LIMITS)
    assert (tmp_path / "elsewhere" / "a.wav").read_bytes() == CANARY


def test_one_bad_archive_does_not_block_those_after_it(server: Server, tmp_path: Path) -> None:
    server.files = {
        "a.zip": zipped(zeros=bytes(3_000_000)),
        "b.zip": b"other",
        "c.zip": b"no archive",
        "d.zip": zipped(a=b"x"),
    }
    files = [offered(server, name, content) for name, content in server.files.items()]
    server.files["b.zip"] = b"OTHER"
    for again in (1, 0):
        with pytest.raises(UserError, match=r"3 problem\(s\)") as refused:
            fetch_files(files, tmp_path, LIMITS, progress=False)
        assert [name in str(refused.value) for name in ("a.zip", "b.zip", "c.zip", "d.zip")] == [True] * 3 + [False]
        assert (tmp_path / "d" / "a").read_bytes() == b"x", again
