"""Fetching a corpus: resumed where it was cut off, checked against its digest, unpacked without trust."""

import hashlib
import json
import logging
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from emorec.errors import UserError, raise_problems
from emorec.progress import Progress
from emorec.storage.atomic import make_folder, write_text

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT_SECONDS = 60
ATTEMPTS = 5
PAUSE_SECONDS = 0.25  # doubled before each further attempt
PARTIAL = ".part"
UNPACKED = ".unpacked"  # marks an archive that is gone because it was unpacked
# An archive that unpacks to more than this is refused: corpora of media hardly shrink.
LARGEST_RATIO = 100
MOST_FILES = 200_000


@dataclass(frozen=True)
class RemoteFile:
    """One file of a record: its name, address, size in bytes and MD5 digest (32 hex digits)."""

    name: str
    address: str
    size: int
    md5: str


def read_record(address: str) -> dict[str, RemoteFile]:
    """The files of a Zenodo record, by name.

    Args:
        address: of the record's page in Zenodo's interface for programs (…/api/records/<number>).

    Raises:
        UserError: it cannot be read, or is no such page.
    """
    try:
        with _open(address) as answer:
            record = json.load(answer)
        found = {}
        for item in record["files"]:
            kind, _, digest = str(item["checksum"]).partition(":")
            if kind != "md5":
                raise UserError(f"expected MD5 digests in the record {address}, got {item['checksum']!r}")
            name = str(item["key"])
            found[name] = RemoteFile(name, str(item["links"]["self"]), int(item["size"]), digest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected a record's description at {address}, got {error!r}") from error
    return found


def fetch_archives(files: Iterable[RemoteFile], folder: Path, *, progress: bool) -> int:
    """Fetches archives and unpacks each into a folder of its name; one that was unpacked before is not fetched again.

    Returns:
        How many were unpacked now.

    Raises:
        UserError: a file cannot be fetched, is not what the record says, or is refused.
    """
    make_folder(folder)
    count = 0
    for item in files:
        mark = folder / f".{Path(item.name).name}{UNPACKED}"
        there = any((folder / Path(item.name).stem).glob("*"))
        if there and mark.exists() and mark.read_text().strip() == item.md5:
            log.info("%s was unpacked before", item.name)
            continue
        archive = fetch(item, folder / Path(item.name).name, progress=progress)
        found = unpack(archive, folder / archive.stem)
        write_text(mark, f"{item.md5}\n")
        archive.unlink()
        log.info("%s: %d files", item.name, found)
        count += 1
    return count


def fetch(item: RemoteFile, path: Path, *, progress: bool) -> Path:
    """Fetches a file; what is there already is kept, what is there in part goes on.

    Raises:
        UserError: it cannot be fetched, or is not what the record says; what was fetched of it is kept for the next
            attempt, unless its digest is wrong.
    """
    if path.exists() and path.stat().st_size == item.size and _md5(path) == item.md5:
        log.info("%s is there already", path.name)
        return path
    partial = path.with_name(path.name + PARTIAL)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _append(item, partial, progress)
            break
        except (urllib.error.URLError, OSError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 416:
                raise UserError(f"{item.address}: {error}") from error
            if attempt == ATTEMPTS:
                raise UserError(f"{item.address}: {error}; the same command goes on from here") from error
            log.warning("%s: %s; attempt %d of %d goes on", item.name, error, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE_SECONDS * 2**attempt)
    digest = _md5(partial)
    if digest != item.md5:
        partial.unlink()
        raise UserError(f"expected MD5 {item.md5} of {item.name}, got {digest}: it was removed; fetch it again")
    partial.replace(path)
    return path


def _append(item: RemoteFile, partial: Path, progress: bool) -> None:
    """Adds to a partial file what is missing of it."""
    there = partial.stat().st_size if partial.exists() else 0
    if there > item.size:
        partial.unlink()
        there = 0
    if there == item.size:
        return
    with _open(item.address, {"Range": f"bytes={there}-"} if there else {}) as answer:
        if there and answer.status != 206:  # the server starts at the beginning
            there = 0
        with (
            partial.open("ab" if there else "wb") as stream,
            Progress(f"{item.name} (MB)", max(1, item.size >> 20), progress) as bar,
        ):
            bar.advance(there >> 20)
            while block := answer.read(BLOCK):
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
        UserError: it is no ZIP file, holds links, absolute paths or `..`, unpacks to more than a hundred times its
            size, or is damaged; nothing of it stays behind.
    """
    temporary = folder / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            _refuse_hostile(archive, packed.infolist(), entries)
            for entry in entries:
                target = temporary / entry.filename
                make_folder(target.parent)
                with packed.open(entry) as source, target.open("wb") as stream:
                    _copy(source, stream, entry.file_size)
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:  # or it is encrypted, or of an unknown kind
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"expected a whole ZIP file, got {archive}: {error}") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(temporary)
            make_folder(target.parent)
            path.replace(target)
    shutil.rmtree(temporary)
    return len(entries)


def _copy(source: Any, stream: Any, size: int) -> None:
    """Copies an entry; one that is longer than it says is refused."""
    written = 0
    while block := source.read(BLOCK):
        written += len(block)
        if written > size:
            raise zipfile.BadZipFile("an entry is longer than it says")
        stream.write(block)


def _refuse_hostile(archive: Path, everything: list[zipfile.ZipInfo], entries: list[zipfile.ZipInfo]) -> None:
    problems = []
    for entry in everything:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        kind = entry.external_attr >> 28  # of a Unix file: 8 a plain file, 4 a folder, 0 not told
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
            problems.append(f"a path that leads out of the folder: {entry.filename!r}")
        elif kind not in (0, 4, 8):
            problems.append(f"a link or a device: {entry.filename!r}")
    size = sum(entry.file_size for entry in entries)
    if size > LARGEST_RATIO * max(1, archive.stat().st_size):
        problems.append(f"{size} bytes unpacked, more than {LARGEST_RATIO} times the archive's")
    if len(entries) > MOST_FILES:
        problems.append(f"{len(entries)} files, more than {MOST_FILES}")
    raise_problems(f"the archive {archive} is refused; it holds", problems)
