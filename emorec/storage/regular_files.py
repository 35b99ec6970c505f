"""Reads files that others wrote: only regular ones, and no more of them than they held when they were opened."""

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: Path) -> int:
    """The size in bytes of a regular file.

    Raises:
        OSError: the file is missing, or is a pipe, a device or a folder, which could block or never end.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"expected a regular file, got {kind}", str(path))
    return status.st_size


def read_regular(path: Path, largest: int) -> bytes:
    """The content of a regular file of at most `largest` bytes. What is appended meanwhile is not read.

    Raises:
        OSError: the file is missing, cannot be read, is no regular file, or is larger.
    """
    require_regular(path)  # opening a device can have effects
    # a pipe that was put there meanwhile does not block
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"expected at most {largest} bytes, got {size}", str(path))
        return stream.read(size)
