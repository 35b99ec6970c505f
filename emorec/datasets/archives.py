"""Unpacks archives that others packed: only files, only below a folder, and no more than is expected of media."""

import errno
import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

from emorec.config.schema import DownloadConfig
from emorec.errors import UserError, raise_problems
from emorec.storage.atomic import make_folder, share, sync
from emorec.storage.folders import list_tree

TARS = (".tar.gz", ".tgz", ".tar")
MOST_FILES = 200_000
LARGEST_HEADER = 1 << 20  # bytes of a name or of extended headers in a tar
# What damaged archives raise; RuntimeError: encrypted or unsupported.
FAULTS = (
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)
NAME_FAULTS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)


class RefusedError(Exception):
    """An archive unpacks to more than is expected."""


def unpack(archive: Path, folder: Path, limits: DownloadConfig) -> int:
    """Unpacks a ZIP or tar file into a folder, flushes the files to disk, and returns their number.

    A tar in a tar is unpacked where it lies.

    Raises:
        UserError: the archive is damaged or of another kind, contains links, devices, absolute paths or `..`, or
            unpacks to more than `limits` allow, or than fits on the disk. Nothing is unpacked then.
    """
    temporary = folder / f".{archive.name}.unpacking"
    with _empty_folder(temporary):
        try:
            spent = _extract(archive, temporary, limits)
            for inner in [path for path in list_tree(temporary) if path.name.endswith(TARS) and path.is_file()]:
                spent += _extract(inner, inner.parent, limits, spent)
                inner.unlink()
            share(temporary)
            return _publish(temporary, folder)
        except RefusedError as error:
            raise UserError(f"the archive {archive} is refused; it contains {error}") from error
        except FAULTS as error:
            raise UserError(f"expected a whole archive, got {archive}: {error}") from error
        except OSError as error:
            if error.errno not in NAME_FAULTS:
                raise
            raise UserError(f"the archive {archive} is refused; {error.strerror}: {error.filename}") from error


@contextmanager
def _empty_folder(folder: Path) -> Iterator[None]:
    """An empty folder for the block, removed after it."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> int:
    """Moves the files of one folder into another, whose own links are not followed, and flushes them to disk."""
    files = [path for path in list_tree(temporary) if path.is_file()]
    root = folder.resolve()
    outside = [
        path for path in files if not (folder / path.relative_to(temporary)).parent.resolve().is_relative_to(root)
    ]
    raise_problems(f"expected folders in {folder}, found links out of it", map(str, outside))
    parents = set()
    for path in files:
        target = folder / path.relative_to(temporary)
        make_folder(target.parent)
        path.replace(target)
        sync(target)
        parents.add(target.parent)
    for parent in sorted(parents):
        sync(parent)
    return len(files)


def _extract(archive: Path, folder: Path, limits: DownloadConfig, spent: int = 0) -> int:
    """Unpacks an archive; returns the bytes of its files. `spent`: bytes that were unpacked before."""
    size = archive.stat().st_size
    largest = min(limits.largest - spent, limits.ratio * max(1, size))
    if archive.name.endswith(TARS):
        with archive.open("rb") as packed:
            unpacked = packed if archive.suffix == ".tar" else gzip.GzipFile(fileobj=packed)
            return _extract_tar(_Counted(unpacked, largest), folder)
    with zipfile.ZipFile(archive) as packed:
        entries = _safe_entries(archive, packed, largest)
        total, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
        if total > free:
            raise RefusedError(f"{total} bytes unpacked, more than the {free} that are free on the disk")
        packed.extractall(folder, entries)  # never writes more than the declared size of an entry
    return total


def _safe_entries(archive: Path, packed: zipfile.ZipFile, largest: int) -> list[zipfile.ZipInfo]:
    """The files in an archive, if none of its entries is hostile."""
    problems = []
    for entry in packed.infolist():
        kind = entry.external_attr >> 28  # Unix file type: 8 is a regular file, 4 a folder, 0 unknown
        problems += _path_problems(entry.filename, is_plain=kind in (0, 4, 8))
    entries = [entry for entry in packed.infolist() if not entry.is_dir()]
    total = sum(entry.file_size for entry in entries)
    if total > largest:
        problems.append(_excess(total, largest))
    if len(entries) > MOST_FILES:
        problems.append(f"{len(entries)} files, more than {MOST_FILES}")
    raise_problems(f"the archive {archive} is refused; it contains", problems)
    return entries


def _path_problems(name: str, *, is_plain: bool) -> list[str]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        return [f"a path that leads out of the folder: {name!r}"]
    return [] if is_plain else [f"a link or a device: {name!r}"]


def _excess(total: int, largest: int) -> str:
    return f"{total} bytes unpacked or more, which is more than {largest} (see download.largest and download.ratio)"


class _Counted:
    """A stream of a tar that is read in small parts, and no further than `largest` bytes."""

    def __init__(self, stream: Any, largest: int) -> None:
        self._stream, self._largest = stream, largest
        self._total = 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= LARGEST_HEADER:
            raise RefusedError(f"a header of {count} bytes, not of at most {LARGEST_HEADER}")
        block: bytes = self._stream.read(count)
        self._total += len(block)
        if self._total > self._largest:
            raise RefusedError(_excess(self._total, self._largest))
        return block


def _extract_tar(stream: Any, folder: Path) -> int:
    """Writes the files of a tar; returns their bytes."""
    count = total = 0
    with tarfile.open(fileobj=stream, mode="r:") as packed:
        for entry in packed:
            is_plain = entry.isdir() or (entry.isreg() and not entry.issparse() and entry.size >= 0)
            if problems := _path_problems(entry.name, is_plain=is_plain):
                raise RefusedError(problems[0])
            count, total = count + 1, total + entry.size
            if count > MOST_FILES:
                raise RefusedError(f"more than {MOST_FILES} files")
            target = folder / entry.name
            make_folder(target if entry.isdir() else target.parent)
            if entry.isreg():
                source = packed.extractfile(entry)
                assert source is not None
                with target.open("wb") as written:
                    shutil.copyfileobj(source, written)
    return total
