"""Folders that other processes change at the same time: what vanishes after it was listed is skipped."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


def list_folder(folder: Path, pattern: str = "*") -> list[Path]:
    """The sorted paths in `folder` that match `pattern`; empty where the folder is missing or cannot be read."""
    with suppress(FileNotFoundError, NotADirectoryError):  # removed while it is listed
        return sorted(folder.glob(pattern))
    return []


def list_tree(folder: Path) -> list[Path]:
    """The sorted paths at any depth below `folder`; links are listed, not followed."""
    tree = os.walk(folder)  # passes over a folder that vanishes, which `Path.rglob` does not
    return sorted(Path(parent, name) for parent, folders, files in tree for name in (*folders, *files))


def remove_tree(folder: Path) -> None:
    """Removes a folder with its content, also while another process removes it."""
    while folder.is_dir():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def remove(path: Path) -> None:
    """Removes a file, or a folder with its content; a link is removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()


def temporary_path(path: Path) -> Path:
    """A unique hidden path beside `path`; what a killed process leaves there is removed by `remove_orphans`."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"


def remove_folder(folder: Path) -> None:
    """Removes a folder that others read: it is renamed first, so that none of them finds a part of it.

    Raises:
        FileNotFoundError: another process has removed it.
    """
    remove_tree(folder.rename(temporary_path(folder)))


@contextmanager
def keep_modification_time(folder: Path) -> Iterator[None]:
    """Restores the folder's modification time after the block, since maintenance does not count as use."""
    before = folder.stat()
    try:
        yield
    finally:
        with suppress(OSError):
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
