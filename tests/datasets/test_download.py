"""Downloads from a local server are resumed and verified, and hostile archives are refused."""

import hashlib
import io
import json
import os
import stat
import zipfile
from http.client import BadStatusLine
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from emorec.config.composition import compose_once
from emorec.config.schema import DataConfig, DownloadConfig
from emorec.datasets import archives, download, records
from emorec.datasets.download import PARTIAL, fetch_files
from emorec.datasets.fixtures.media import write_sound
from emorec.datasets.ravdess import Ravdess
from emorec.datasets.records import RemoteFile, read_record
from emorec.errors import UserError
from tests.datasets.record_server import Server, server

pytestmark = pytest.mark.slow

__all__ = ["server"]  # a fixture

LIMITS = DownloadConfig()


def remote(server: Server, name: str) -> RemoteFile:
    (item,) = read_record(f"{server.address}/record", name, LIMITS)
    return item


def fetch(item: RemoteFile, path: Path, limits: DownloadConfig = LIMITS) -> Path:
    download.fetch(item, path, limits, progress=False)
    return path


def unpack(archive: Path, folder: Path, limits: DownloadConfig = LIMITS) -> int:
    return archives.unpack(archive, folder, limits)


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
    opened, responses = download.open_address, iter([BadStatusLine("nonsense")])

    def open_at_the_second_attempt(*arguments: Any) -> Any:
        for error in responses:
            raise error
        return opened(*arguments)

    monkeypatch.setattr(download, "open_address", open_at_the_second_attempt)
    assert fetch(item, tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    path = fetch(remote(server, "a.zip"), tmp_path / "a.zip")
    assert path.read_bytes() == CONTENT
    assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]


def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    item = remote(server, "a.zip")
    server.cut_after = 5_000_000
    assert fetch(item, tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=5000000-"]


def test_a_partial_file_is_resumed_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    (tmp_path / f"a.zip{PARTIAL}").write_bytes(CONTENT[:3_000_000])
    assert fetch(remote(server, "a.zip"), tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"], server.takes_ranges = CONTENT, False
    (tmp_path / f"a.zip{PARTIAL}").write_bytes(CONTENT[:3_000_000])
    assert fetch(remote(server, "a.zip"), tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_with_a_wrong_digest_is_removed_and_is_an_error(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    item = remote(server, "a.zip")
    server.files["a.zip"] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match="expected md5:"):
        fetch(item, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_complete_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip").write_bytes(CONTENT)
    fetch(remote(server, "a.zip"), tmp_path / "a.zip")
    assert server.ranges == []


def test_a_missing_file_is_an_error_without_retries(server: Server, tmp_path: Path) -> None:
    item = RemoteFile("b.zip", f"{server.address}/files/b.zip", 10, f"md5:{0:032}")
    with pytest.raises(UserError, match="404"):
        fetch(item, tmp_path / "b.zip")


def test_an_unreachable_server_is_an_error_after_retries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    item = RemoteFile("b.zip", "http://127.0.0.1:9/b.zip", 10, f"md5:{0:032}")
    with pytest.raises(UserError, match="run the same command to resume"):
        fetch(item, tmp_path / "b.zip")


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_only_web_addresses_are_opened(address: str) -> None:
    with pytest.raises(UserError, match="expected an address that starts with"):
        read_record(address, "a", LIMITS)


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_a_dataset_of_hugging_face_is_a_record(server: Server, tmp_path: Path) -> None:
    server.files = {"MELD.Raw.tar.gz": CONTENT, "README.md": b"text"}
    entries = [
        {"type": "directory", "path": "data", "oid": "0" * 40, "size": 0},
        {"type": "file", "path": "README.md", "oid": git_id(b"text"), "size": 4},
        {
            **{"type": "file", "path": "MELD.Raw.tar.gz", "oid": "0" * 40, "size": len(CONTENT)},
            "lfs": {"oid": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT), "pointerSize": 135},
        },
    ]
    server.bodies["/api/datasets/lab/MELD/tree/main"] = [json.dumps(entries).encode()]
    for name, content in server.files.items():
        (item,) = read_record(f"{server.address}/api/datasets/lab/MELD/tree/main", name, LIMITS)
        assert item.address == f"{server.address}/datasets/lab/MELD/resolve/main/{name}"
        assert item.size == len(content)
        assert fetch(item, tmp_path / name).read_bytes() == content


def test_a_folder_of_a_repository_is_a_record(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = b"sound" * 1000, b"a table, which git holds itself".ljust(200)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(large).hexdigest()}\nsize 5000\n"
    server.files = {"1001.wav": large, "actors.csv": small}
    monkeypatch.setattr(records, "PLAIN", f"{server.address}/plain")
    monkeypatch.setattr(records, "LARGE", f"{server.address}/large")
    trees = f"{server.address}/repos/lab/CREMA-D/git/trees"
    blob = {"path": "1001.wav", "type": "blob", "sha": git_id(pointer.encode()), "size": len(pointer)}
    table = {"path": "actors.csv", "type": "blob", "sha": git_id(small), "size": 200}
    folder = {"path": "AudioWAV", "type": "tree", "sha": "0" * 40, "url": f"{trees}/sub"}
    server.bodies["/repos/lab/CREMA-D/git/trees/master"] = [json.dumps({"tree": [folder, table]}).encode()]
    server.bodies["/repos/lab/CREMA-D/git/trees/sub"] = [json.dumps({"tree": [blob], "truncated": False}).encode()]
    items = [item for path in ("AudioWAV", "actors.csv") for item in read_record(f"{trees}/master", path, LIMITS)]
    assert [item.address.removeprefix(server.address) for item in items] == [
        "/large/lab/CREMA-D/master/AudioWAV/1001.wav",
        "/plain/lab/CREMA-D/master/actors.csv",
    ]
    assert fetch_files(items, tmp_path, LIMITS, progress=False) == 2
    assert (tmp_path / "AudioWAV" / "1001.wav").read_bytes() == large
    assert (tmp_path / "actors.csv").read_bytes() == small
    assert fetch_files(items, tmp_path, LIMITS, progress=False) == 0
    (tmp_path / "AudioWAV" / "1001.wav").unlink()
    server.files["1001.wav"] = large + b"x"
    with pytest.raises(UserError, match="expected git:"):
        fetch_files(items, tmp_path, LIMITS, progress=False)


@pytest.mark.parametrize("name", ["ravdess", "meld", "crema_d", "emodb"])
def test_what_a_corpus_offers_has_a_source(name: str) -> None:
    composed = compose_once("data", DataConfig, [f"dataset={name}"])
    assert composed is not None
    corpus = composed.config.dataset.target
    assert corpus.parts
    assert {part.source or name for part in corpus.parts.values()} <= composed.config.sources.keys()


def test_a_page_that_is_not_a_record_is_an_error(server: Server) -> None:
    server.files["page"] = b"<html>"
    with pytest.raises(UserError, match="expected a record's description"):
        read_record(f"{server.address}/files/page", "page", LIMITS)


def test_an_archive_is_downloaded_and_unpacked_once(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = packed({"Actor_01/a.wav": b"one", "Actor_02/b.wav": b"two"})
    files = [remote(server, "a.zip")]
    assert fetch_files(files, tmp_path, LIMITS, progress=False) == 1
    assert (tmp_path / "a" / "Actor_02" / "b.wav").read_bytes() == b"two"
    assert not (tmp_path / "a.zip").exists()
    assert fetch_files(files, tmp_path, LIMITS, progress=False) == 0
    assert len(server.ranges) == 1


def test_unpacked_media_are_shared_and_on_disk_before_the_archive_is_deleted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["a.zip"] = packed({"Actor_01/a.wav": b"one", "Actor_02/b.wav": b"two"})
    tmp_path.chmod(0o2775)
    flushed: set[Path] = set()
    before_deletion: list[set[Path]] = []
    unlink = Path.unlink

    def note_deletion(path: Path, missing_ok: bool = False) -> None:
        if path.name == "a.zip":
            before_deletion.append(set(flushed))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink()))
    monkeypatch.setattr(Path, "unlink", note_deletion)
    before = os.umask(0o077)
    try:
        fetch_files([remote(server, "a.zip")], tmp_path, LIMITS, progress=False)
    finally:
        os.umask(before)
    media = [*(tmp_path / "a").rglob("*"), tmp_path / "a"]
    assert len(media) == 5
    assert before_deletion[0] >= set(media)
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in media} == {"0o2775", "0o664"}


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
    with pytest.raises(UserError, match=r"20000000 bytes unpacked or more, .*download\.ratio"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")


def test_a_damaged_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    content = bytearray(packed({"a.wav": bytes(1000), "b.wav": bytes(range(250)) * 4}))
    index = content.rindex(bytes(range(200)))
    content[index + 5] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(bytes(content))
    with pytest.raises(UserError, match="expected a whole archive"):
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
    assert main(["data", "download", "dataset=iemocap"]) == 2
    assert "Ask for it at the University of Southern California, https://sail.usc.edu/" in capsys.readouterr().err
