"""Download of a corpus: resumable, verified by digest, and safe against hostile servers and archives."""

import errno
import hashlib
import logging
import shutil
import time
import urllib.error
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

from emorec.config.schema import DownloadConfig
from emorec.datasets.archives import TARS, unpack
from emorec.datasets.records import RemoteFile
from emorec.datasets.transfer import BLOCK, TooLongError, blocks, open_address
from emorec.errors import UserError, raise_problems
from emorec.progress import Progress
from emorec.storage.atomic import follow_folder_mode, make_folder, write_text
from emorec.storage.regular_files import read_regular

log = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE_SECONDS = 0.25  # doubled before each attempt
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
PARTIAL = ".part"
UNPACKED = ".unpacked"  # suffix of the marker of an archive that was unpacked and removed
ARCHIVES = (".zip", *TARS)
AT_ONCE = 8  # files that are no archives
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"


def fetch_files(files: Iterable[RemoteFile], folder: Path, limits: DownloadConfig, *, progress: bool) -> int:
    """Downloads files into a folder, unless done before; returns how many. An archive is unpacked into a folder of its
    name.

    One bad file does not keep the others from being downloaded.

    Raises:
        UserError: lists the files that cannot be downloaded, have a wrong digest, or are refused.
    """
    make_folder(folder)
    items = list(files)
    archives = [item for item in items if item.name.endswith(ARCHIVES)]
    plain = [item for item in items if not item.name.endswith(ARCHIVES)]
    problems: list[str] = []
    log.info("%d files of %.1f MB or more, into %s", len(items), sum(item.size or 0 for item in items) / 1e6, folder)

    def attempt(item: RemoteFile) -> bool:
        try:
            if item in archives:
                return _fetch_archive(item, folder, limits, progress=progress)
            return fetch(item, folder / item.name, limits, progress=False)
        except UserError as error:
            problems.append(str(error))
            return False

    count = sum(map(attempt, archives))
    with ThreadPoolExecutor(AT_ONCE) as pool, Progress("files", len(plain), progress) as bar:
        for is_new in pool.map(attempt, plain):
            count += is_new
            bar.advance()
    raise_problems(f"the download into {folder}", problems)
    return count


def _fetch_archive(item: RemoteFile, folder: Path, limits: DownloadConfig, *, progress: bool) -> bool:
    """Downloads and unpacks an archive, unless done before; whether it was unpacked now."""
    archive = folder / Path(item.name).name
    name = next(archive.name.removesuffix(suffix) for suffix in ARCHIVES if archive.name.endswith(suffix))
    target, marker = folder / name, folder / f".{archive.name}{UNPACKED}"
    if any(target.glob("*")) and _unpacked(marker) in (item.digest, item.digest.removeprefix("md5:")):
        log.info("%s is already unpacked", item.name)
        return False
    fetch(item, archive, limits, progress=progress)
    log.info("%s: %d files", item.name, unpack(archive, target, limits))
    write_text(marker, f"{item.digest}\n")
    archive.unlink()
    return True


def _unpacked(marker: Path) -> str:
    """The digest of the archive that was unpacked; earlier versions wrote an MD5 without its name."""
    try:
        return read_regular(marker, most=BLOCK).decode(errors="replace").strip()
    except OSError:
        return ""


def fetch(item: RemoteFile, path: Path, limits: DownloadConfig, *, progress: bool) -> bool:
    """Downloads a file, resuming a partial one; whether it was downloaded now.

    Raises:
        UserError: the file cannot be downloaded, in which case the partial file is kept for the next attempt, or its
            length or digest is wrong.
    """
    if path.is_file() and item.digest in digests(path):
        log.info("%s exists already", path.name)
        return False
    make_folder(path.parent)
    partial = path.with_name(path.name + PARTIAL)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _append(item, partial, limits, progress)
            break
        except TooLongError as error:
            partial.unlink()
            raise UserError(f"{item.address}: {error}; the file was removed") from error
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK_FAULTS:
                raise OSError(error.errno, error.strerror, str(partial)) from error
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 416:
                raise UserError(f"{item.address}: {error}") from error
            if attempt == ATTEMPTS:
                raise UserError(f"{item.address}: {error}; run the same command to resume") from error
            log.warning("%s: %s; resuming with attempt %d of %d", item.name, error, attempt + 1, ATTEMPTS)
            time.sleep(PAUSE_SECONDS * 2**attempt)
    if item.digest not in (got := digests(partial)):
        partial.unlink()
        removed = "the file was removed, download it again"
        raise UserError(f"expected {item.digest} of {item.name}, got {' or '.join(got)}; {removed}")
    partial.replace(path)
    return True


def _append(item: RemoteFile, partial: Path, limits: DownloadConfig, progress: bool) -> None:
    if partial.is_symlink() or (partial.exists() and not partial.is_file()):
        partial.unlink()
    start = partial.stat().st_size if partial.exists() else 0
    if start == item.size:
        return
    if item.size is None or start > item.size:
        start = 0
    largest = limits.largest if item.size is None else item.size
    with open_address(item.address, limits, {"Range": f"bytes={start}-"} if start else {}) as response:
        if response.status != 206:  # the server sends the whole file
            start = 0
        free = shutil.disk_usage(partial.parent).free
        if item.size is not None and item.size - start > free:
            raise UserError(f"expected {item.size - start} free bytes for {item.name} in {partial.parent}, got {free}")
        with (
            partial.open("ab" if start else "wb") as stream,
            Progress(f"{item.name} (MB)", max(1, (item.size or 0) >> 20), progress) as bar,
        ):
            follow_folder_mode(partial)  # a colleague may resume the download
            bar.advance(start >> 20)
            for block in blocks(response, largest - start, limits):
                before = stream.tell() >> 20
                stream.write(block)
                bar.advance((stream.tell() >> 20) - before)
        if response.length or (item.size is not None and partial.stat().st_size < item.size):
            raise OSError(f"the connection ended after {partial.stat().st_size} of {item.size} bytes")


def digests(path: Path) -> tuple[str, ...]:
    """All digests of a file that a record may state."""
    size = path.stat().st_size
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            for digest in (md5, sha256, blob):
                digest.update(block)
    pointer = POINTER.format(digest=sha256.hexdigest(), size=size).encode()
    large = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False)
    return (
        f"md5:{md5.hexdigest()}",
        f"sha256:{sha256.hexdigest()}",
        f"git:{blob.hexdigest()}",
        f"git:{large.hexdigest()}",
    )
