"""Atomic writes: a file is either complete or absent.

A file is written under a unique temporary name in its destination folder, flushed to disk, given the group and the
permission bits of its folder, and renamed. A temporary file in another folder could be on another filesystem, where a
rename is a copy that a killed process leaves incomplete.
"""

import errno
import json
import math
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emorec.storage.folders import TEMPORARY_SUFFIX, is_real_folder, list_folder, list_tree, remove, temporary_path

SYNC_THREADS = 16


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents, on disk too; each new one takes the group and permission bits of its parent."""
    if not path.is_dir():
        make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir()
            follow_folder_mode(path)
            sync(path.parent)
    return path


def follow_folder_mode(path: Path) -> None:
    """Gives a file or folder the group and the permission bits of its folder, whatever the umask of the process is.

    What belongs to another user, who alone may change them, keeps its own; so does a link.
    """
    parent = path.parent.stat()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ELOOP, errno.ENXIO):  # another user's, a link, a socket
            return
        raise
    try:
        with suppress(PermissionError):
            _follow(descriptor, parent)
    finally:
        os.close(descriptor)


def _follow(descriptor: int, parent: os.stat_result) -> None:
    own = os.fstat(descriptor)
    if own.st_gid != parent.st_gid:
        with suppress(PermissionError):  # this user is not in that group
            os.fchown(descriptor, -1, parent.st_gid)
    if stat.S_ISDIR(own.st_mode):
        os.fchmod(descriptor, stat.S_IMODE(parent.st_mode))
    elif stat.S_ISREG(own.st_mode):
        os.fchmod(descriptor, (parent.st_mode & 0o666) | 0o600)


def share(folder: Path) -> None:
    """Gives a folder and everything in it, which others have written, the group and permission bits of its parent."""
    if is_real_folder(folder):
        for path in [folder, *list_tree(folder)]:  # folders before their files, whose mode follows theirs
            with suppress(FileNotFoundError):  # removed in the meantime
                follow_folder_mode(path)


def sync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flushes a folder and everything in it to disk; links are not followed."""
    paths = [path for path in [folder, *list_tree(folder)] if not path.is_symlink()]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:  # a disk flushes many files in about the time of one
        list(pool.map(sync, paths))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path` and renames it to `path` after the block.

    Raises:
        OSError: the disk is full or cannot be written; no partial file remains.
    """
    make_folder(path.parent)
    temporary = temporary_path(path)
    try:
        yield temporary
        follow_folder_mode(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # the error of a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text to `path` atomically."""
    write_bytes(path, text.encode())


def strict_json(value: Any, *, ascii_only: bool = False) -> str:
    """Indented JSON; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_with_null(value), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def _with_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Writes `strict_json` to `path` atomically."""
    write_text(path, strict_json(value) + "\n")


def remove_orphans(folder: Path, *, grace: float = 24 * 3600.0, pattern: str = f".*{TEMPORARY_SUFFIX}") -> list[Path]:
    """Removes temporary files and folders older than `grace` seconds, which killed writers left in `folder`."""
    removed = []
    for path in list_folder(folder, pattern):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > grace:
                remove(path)
                removed.append(path)
    return removed
