"""Atomic writes: a file is either complete or absent.

A file is written under a unique temporary name in its destination folder, flushed to disk, given the permission
bits of its folder, and renamed. A temporary file in another folder could be on another filesystem, where a rename is
a copy that a killed process leaves incomplete.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emorec.storage.folders import TEMPORARY_SUFFIX, list_folder, remove_tree, temporary_path


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents; each new one takes the permission bits of its parent."""
    if not path.is_dir():
        make_folder(path.parent)
        mode = path.parent.stat().st_mode & 0o7777
        with suppress(FileExistsError):
            path.mkdir()
            path.chmod(mode)
    return path


def follow_folder_mode(path: Path) -> None:
    """Gives a file the read and write bits of its folder, regardless of the umask of the process."""
    path.chmod((path.parent.stat().st_mode & 0o666) | 0o600)


def sync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_orphans(folder: Path, *, grace: float = 24 * 3600.0) -> list[Path]:
    """Removes temporary files and folders older than `grace` seconds, which killed writers left in `folder`."""
    removed = []
    for path in list_folder(folder, f".*{TEMPORARY_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > grace:
                remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                removed.append(path)
    return removed
