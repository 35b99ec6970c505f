"""Folders that other processes change at the same time: what vanishes after it was listed is skipped."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
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


def is_real_folder(path: Path) -> bool:
    """Whether it is a folder and no link to one."""
    with suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def check_real_folder(path: Path) -> None:
    """Raises an `OSError` where a link stands in place of a folder; a missing folder is no error."""
    if path.is_symlink():
        raise _link_error(path)


def check_links(folder: Path, *, allowed: Callable[[Path], bool] = lambda _: False) -> None:
    """Raises an `OSError` where a folder is a link, or holds links that lead out of it and are not `allowed`."""
    check_real_folder(folder)
    real = os.path.realpath(folder)  # unlike `Path.resolve`, it takes loops of links
    for path in list_tree(folder):
        if path.is_symlink() and not allowed(path) and not Path(os.path.realpath(path)).is_relative_to(real):
            raise _link_error(path)


def _link_error(path: Path) -> OSError:
    with suppress(OSError):
        return OSError(errno.ELOOP, f"expected no link out of the store, got one to {path.readlink()}", str(path))
    return OSError(errno.ELOOP, "expected no link out of the store", str(path))
