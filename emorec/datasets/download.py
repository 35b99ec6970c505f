"""Download of a corpus: resumable, verified by digest, and safe against hostile archives."""

import hashlib
import json
import logging
import shutil
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from emorec.errors import UserError, raise_problems
from emorec.progress import Progress
from emorec.storage.atomic import follow_folder_mode, make_folder, share, sync_tree, write_text

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT_SECONDS = 60
ATTEMPTS = 5
PAUSE_SECONDS = 0.25  # doubled before each attempt
PARTIAL = ".part"
UNPACKED = ".unpacked"  # suffix of the marker of an archive that was unpacked and removed
# Limits against archive bombs: media hardly compress.
LARGEST_RATIO = 100
MOST_FILES = 200_000


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record: its name, URL, size in bytes and MD5 digest (32 hex digits)."""

    name: str
    address: str
    size: int
    md5: str


def read_record(address: str) -> dict[str, RemoteFile]:
    """The files of a Zenodo record by name; `address` is its URL in the Zenodo API (…/api/records/<number>).

    Raises:
        UserError: the record cannot be read.
    """
    try:
        with _open(address) as response:
            record = json.load(response)
        files = {}
        for item in record["files"]:
            kind, _, digest = str(item["checksum"]).partition(":")
            if kind != "md5":
                raise UserError(f"expected MD5 digests in the record {address}, got {item['checksum']!r}")
            name = str(item["key"])
            files[name] = RemoteFile(name, str(item["links"]["self"]), int(item["size"]), digest)
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected a record's description at {address}, got {error!r}") from error
    return files


def fetch_archives(files: Iterable[RemoteFile], folder: Path, *, progress: bool) -> int:
    """Downloads archives and unpacks each into a folder of its name, unless done before; returns how many it unpacked.

    Raises:
        UserError: a file cannot be downloaded, has a wrong digest, or is refused.
    """
    make_folder(folder)
    count = 0
    for item in files:
        archive = folder / Path(item.name).name
        target, marker = folder / archive.stem, folder / f".{archive.name}{UNPACKED}"
        if any(target.glob("*")) and marker.exists() and marker.read_text().strip() == item.md5:
            log.info("%s is already unpacked", item.name)
            continue
        fetch(item, archive, progress=progress)
        log.info("%s: %d files", item.name, unpack(archive, target))
        sync_tree(target)  # the archive is removed below
        write_text(marker, f"{item.md5}\n")
        archive.unlink()
        count += 1
    return count


def fetch(item: RemoteFile, path: Path, *, progress: bool) -> Path:
    """Downloads a file. A complete file is kept, and a partial one is resumed.

    Raises:
        UserError: the file cannot be downloaded, in which case the partial file is kept for the next attempt, or its
            digest is wrong.
    """
    if path.exists() and path.stat().st_size == item.size and _md5(path) == item.md5:
        log.info("%s exists already", path.name)
        return path
    partial = path.with_name(path.name + PARTIAL)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _append(item, partial, progress)
            break
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 416:
                raise UserError(f"{item.address}: {error}") from error
            if attempt == ATTEMPTS:
                raise UserError(f"{item.address}: {error}; run the same command to resume") from error
            log.warning("%s: %s; resuming with attempt %d of %d", item.name, error, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE_SECONDS * 2**attempt)
    digest = _md5(partial)
    if digest != item.md5:
        partial.unlink()
        removed = "the file was removed, download it again"
        raise UserError(f"expected MD5 {item.md5} of {item.name}, got {digest}; {removed}")
    partial.replace(path)
    return path


def _append(item: RemoteFile, partial: Path, progress: bool) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    if start == item.size:
        return
    if start > item.size:
        start = 0
    with _open(item.address, {"Range": f"bytes={start}-"} if start else {}) as response:
        if response.status != 206:  # the server sends the whole file
            start = 0
        with (
            partial.open("ab" if start else "wb") as stream,
            Progress(f"{item.name} (MB)", max(1, item.size >> 20), progress) as bar,
        ):
            follow_folder_mode(partial)  # a colleague may resume the download
            bar.advance(start >> 20)
            while block := response.read(BLOCK):
                stream.write(block)
                bar.advance(len(block) >> 20)
    if partial.stat().st_size < item.size:
        raise OSError(None, f"the connection ended after {partial.stat().st_size} of {item.size} bytes")


def _open(address: str, headers: Mapping[str, str] | None = None) -> Any:
    if urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"expected an address that starts with https:// or http://, got {address!r}")
    request = urllib.request.Request(address, headers={"User-Agent": "emorec", **(headers or {})})
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Path, folder: Path) -> int:
    """Unpacks a ZIP file into a folder and returns the number of files.

    Raises:
        UserError: the archive is damaged or no ZIP file, contains links, absolute paths or `..`, or unpacks to more
            than a hundred times its size. Nothing is unpacked then.
    """
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = _safe_entries(archive, packed)
            make_folder(temporary)
            packed.extractall(temporary, entries)  # never writes more than the declared size of an entry
        share(temporary)
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                target = folder / path.relative_to(temporary)
                make_folder(target.parent)
                path.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted or unsupported
        raise UserError(f"expected a whole ZIP file, got {archive}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(entries)


def _safe_entries(archive: Path, packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in an archive, if none of its entries is hostile."""
    problems = []
    for entry in packed.infolist():
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        kind = entry.external_attr >> 28  # Unix file type: 8 is a regular file, 4 a folder, 0 unknown
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
            problems.append(f"a path that leads out of the folder: {entry.filename!r}")
        elif kind not in (0, 4, 8):
            problems.append(f"a link or a device: {entry.filename!r}")
    entries = [entry for entry in packed.infolist() if not entry.is_dir()]
    size = sum(entry.file_size for entry in entries)
    if size > LARGEST_RATIO * max(1, archive.stat().st_size):
        problems.append(f"{size} bytes unpacked, more than {LARGEST_RATIO} times the size of the archive")
    if len(entries) > MOST_FILES:
        problems.append(f"{len(entries)} files, more than {MOST_FILES}")
    raise_problems(f"the archive {archive} is refused; it contains", problems)
    return entries
