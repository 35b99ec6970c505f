"""Reads from addresses within bounds: of size, and of time for a server that sends next to nothing."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from emorec.config.schema import DownloadConfig
from emorec.errors import UserError

BLOCK = 1 << 20
SCHEMES = ("http", "https")


class TooLongError(UserError):
    """A body is longer than was expected."""


def open_address(address: str, limits: DownloadConfig, headers: Mapping[str, str] | None = None) -> Any:
    """The response of a server.

    Raises:
        UserError: the address is not one of the web.
        OSError: the server cannot be reached, or refuses.
    """
    if urlsplit(address).scheme not in SCHEMES:
        raise UserError(f"expected an address that starts with https:// or http://, got {address!r}")
    request = urllib.request.Request(address, headers={"User-Agent": "emorec", **(headers or {})})
    return urllib.request.urlopen(request, timeout=limits.timeout)


def blocks(response: Any, largest: int, limits: DownloadConfig) -> Iterator[bytes]:
    """The body of a response.

    Args:
        response: of `open_address`.
        largest: bytes; not one block beyond them is read.
        limits: what counts as too slow.

    Raises:
        TooLongError: there is more than `largest` bytes.
        OSError: the server sends less than `limits.slowest` bytes in a second.
    """
    total, counted, since = 0, 0, time.monotonic()
    while block := response.read1(min(BLOCK, largest - total + 1)):
        total += len(block)
        if total > largest:
            raise TooLongError(f"expected at most {largest} bytes, got more")
        yield block
        elapsed = time.monotonic() - since
        if elapsed >= limits.timeout:
            if total - counted < limits.slowest * elapsed:
                rate = (total - counted) / elapsed
                raise OSError(f"expected at least {limits.slowest:g} bytes in a second, got {rate:.0f}")
            counted, since = total, time.monotonic()


def read_address(address: str, largest: int, limits: DownloadConfig) -> bytes:
    """The body at an address.

    Raises:
        UserError: it cannot be read, or is longer than `largest` bytes.
    """
    try:
        with open_address(address, limits) as response:
            body = b"".join(blocks(response, largest, limits))
            if response.length:
                raise OSError(f"the connection ended {response.length} bytes early")
            return body
    except TooLongError as error:
        raise UserError(f"{address}: {error}") from error
    except (OSError, HTTPException) as error:
        raise UserError(f"expected a record's description at {address}, got {error}") from error
