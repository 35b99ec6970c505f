"""Files that somebody else may have put there: only regular ones are opened, and no more is read than they hold then.

Behind a pipe or a device a read would block or never end. Behind a link, in a folder that others can write, may be a
file of whoever runs the command.
"""

import errno
import os
import stat
from functools import cache
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
KERNEL_FOLDERS = ("/proc", "/sys")
MOST_BYTES = 256_000_000  # of a file that is read whole


class IrregularFileError(OSError):
    """What was to be opened is a folder, a pipe, a device, made up by the kernel or, where none is followed, a link."""

    def __init__(self, kind: str, path: Path) -> None:
        super().__init__(errno.EINVAL, f"expected a regular file, got {kind}", str(path))


@cache
def _kernel_devices() -> frozenset[int]:
    return frozenset(os.stat(folder).st_dev for folder in KERNEL_FOLDERS if os.path.ismount(folder))


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IrregularFileError(KINDS.get(stat.S_IFMT(status.st_mode), "something else"), path)
    if status.st_dev in _kernel_devices():
        raise IrregularFileError("a file that the kernel makes up", path)


def require_regular(path: Path) -> int:
    """The size in bytes of a regular file, or of the one that a link leads to.

    Raises:
        OSError: it is missing or no regular file.
    """
    status = os.stat(path)
    _check(status, path)
    return status.st_size


def open_descriptor(path: Path, flags: int = os.O_RDONLY, *, follow: bool = True) -> int:
    """Opens a regular file and returns its descriptor.

    Args:
        path: of the file.
        flags: those of `os.open`.
        follow: whether `path` may be a link.

    Raises:
        OSError: it is missing, may not be opened, or is no regular file.
    """
    try:
        _check(os.stat(path) if follow else os.lstat(path), path)  # opening a device can have effects
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    except IrregularFileError:
        if path.is_symlink() and not follow:
            raise IrregularFileError("a link", path) from None
        raise
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, 0o666)
    try:
        _check(os.fstat(descriptor), path)  # another file may have been put there meanwhile
    except IrregularFileError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Opens a regular file to read it; errors as of `open_descriptor`."""
    return os.fdopen(open_descriptor(path, follow=follow), "rb")


def read_regular(path: Path, *, most: int = MOST_BYTES, follow: bool = True) -> bytes:
    """The content of a regular file. What is appended meanwhile is not read.

    Raises:
        OSError: as of `open_descriptor`, or it has more than `most` bytes.
    """
    with open_regular(path, follow=follow) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"expected a file of at most {most} bytes, got {size}", str(path))
        return stream.read(size)
