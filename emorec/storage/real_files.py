"""Files and folders of a store that others can write, reached without following a link that one of them has planted.

Behind a link may be a file of whoever runs the command: a log would be appended to it, its mode changed, its content
exported. Behind a pipe or a device a read would block.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from emorec.storage.folders import list_tree

MOST_BYTES = 256_000_000  # of a record, a config or a table that is read whole


def is_real_folder(path: Path) -> bool:
    """Whether it is a folder and no link to one."""
    with suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def check_real_folder(path: Path) -> None:
    """Raises an `OSError` where a link stands in place of a folder; a missing folder is no error."""
    if path.is_symlink():
        raise _link_error(path)


def open_file(path: Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """Opens a regular file and returns its descriptor; `flags` are those of `os.open`.

    Raises:
        OSError: it is missing, a link if not `follow`, or no regular file.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise _link_error(path) from error
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise _kind_error(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _kind_error(path)
    return descriptor


def read_file(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as `open_file`, or it has more than `most` bytes, or grows.
    """
    with os.fdopen(open_file(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        content = b"" if size > most else stream.read(size + 1)
    if size > most or len(content) > size:
        expected = f"at most {most} bytes" if size > most else "a file that does not grow"
        raise OSError(errno.EFBIG, f"expected {expected}", str(path))
    return content


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of a regular file.

    Raises:
        OSError: as `read_file`.
        ValueError: it is no UTF-8.
    """
    return read_file(path, most=most).decode()


def set_mode(path: Path, mode: int) -> None:
    """Sets the permission bits of a file or folder, unless it is a link or belongs to another user."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EACCES, errno.EPERM, errno.ENXIO):
            return
        raise
    try:
        with suppress(PermissionError):
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def links_out(folder: Path, *, allowed: Callable[[Path], bool] = lambda _: False) -> list[Path]:
    """The links in a folder, at any depth, that lead out of it, less those that are `allowed`."""
    if folder.is_symlink():
        return [folder]
    real = os.path.realpath(folder)  # unlike `Path.resolve`, it takes loops of links
    links = [path for path in list_tree(folder) if path.is_symlink() and not allowed(path)]
    return [path for path in links if not Path(os.path.realpath(path)).is_relative_to(real)]


def check_links(folder: Path, *, allowed: Callable[[Path], bool] = lambda _: False) -> None:
    """Raises an `OSError` where a folder is a link, or holds links that lead out of it and are not `allowed`."""
    for path in links_out(folder, allowed=allowed):
        raise _link_error(path)


def _link_error(path: Path) -> OSError:
    with suppress(OSError):
        return OSError(errno.ELOOP, f"expected no link out of the store, got one to {path.readlink()}", str(path))
    return OSError(errno.ELOOP, "expected no link out of the store", str(path))


def _kind_error(path: Path) -> OSError:
    return OSError(errno.EINVAL, "expected a regular file, got another kind", str(path))
