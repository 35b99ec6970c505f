"""Reads files that somebody else may have put there: only regular ones, and only so much of them."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class IrregularFileError(OSError):
    """What was to be read is a FIFO, a device, a folder or, where links are not followed, a link."""


def open_regular(path: Path, *, follow: bool) -> BinaryIO:
    """Opens a regular file to read it; never waits, as it would for the writer of a FIFO.

    Args:
        path: of the file.
        follow: whether `path` may be a link.

    Raises:
        IrregularFileError: it is something else than a regular file.
        OSError: it is missing or may not be read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link that is not followed, or a socket
            raise IrregularFileError(None, "expected a regular file, got a link or a socket", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IrregularFileError(None, "expected a regular file, got a folder, a FIFO or a device", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, most: int) -> bytes:
    """The content of a regular file, whose path is no link, of at most so many bytes.

    Raises:
        OSError: it is no regular file, larger, missing, or may not be read.
    """
    with open_regular(path, follow=False) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(None, f"expected a file of at most {most} bytes", str(path))
    return content
