"""What a decoding process and its parent send each other: a few words, and an array.

Nothing is unpickled, and nothing larger than expected is read: the file of a stranger may have taken over its decoder.
"""

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<I")  # of the words, bytes
MOST_WORDS = 1 << 20  # bytes
TYPES = ("uint8", "float32")

Words = dict[str, Any]
Array = NDArray[Any]


class Connection:
    """One end of a socket between two processes."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, words: Mapping[str, Any], values: Array | None = None) -> None:
        """Sends words that JSON can hold, and an array.

        Raises:
            OSError: the other process has ended.
        """
        array = np.zeros(0, np.uint8) if values is None else np.ascontiguousarray(values)
        encoded = json.dumps({**words, "dtype": array.dtype.name, "shape": array.shape}).encode()
        self.socket.sendall(LENGTH.pack(len(encoded)) + encoded)
        self.socket.sendall(array.reshape(-1).view(np.uint8).data)

    def receive(self, *, until: float = math.inf, most_bytes: float = math.inf) -> tuple[Words, Array]:
        """What the other process sends, words and an array.

        Args:
            until: time of `time.monotonic` at which it must be there.
            most_bytes: of the array.

        Raises:
            TimeoutError: it is not there in time.
            EOFError: the other process has ended.
            OSError: as well.
            ValueError: it is not a message.
        """
        (length,) = LENGTH.unpack(self._bytes(LENGTH.size, until).data)
        if length > MOST_WORDS:
            raise ValueError(f"expected at most {MOST_WORDS} bytes of words, got {length}")
        words = _words(self._bytes(length, until).tobytes())
        shape, dtype = _layout(words)
        size = math.prod(shape) * dtype.itemsize
        if size > most_bytes:
            raise ValueError(f"expected an array of at most {most_bytes} bytes, got {size}")
        return words, self._bytes(size, until).view(dtype).reshape(shape)

    def _bytes(self, size: int, until: float) -> NDArray[np.uint8]:
        buffer = np.empty(size, np.uint8)
        missing = buffer.data
        while missing:
            seconds = None if until == math.inf else until - time.monotonic()
            if seconds is not None and seconds <= 0:
                raise TimeoutError
            self.socket.settimeout(seconds)
            count = self.socket.recv_into(missing)
            if count == 0:
                raise EOFError
            missing = missing[count:]
        return buffer


def _words(encoded: bytes) -> Words:
    try:
        words = json.loads(encoded)
    except RecursionError as error:
        raise ValueError("expected words, got deeply nested ones") from error
    if not isinstance(words, dict):
        raise ValueError(f"expected words by name, got {words!r:.100}")
    return words


def _layout(words: Words) -> tuple[list[int], np.dtype[Any]]:
    """Takes the shape and the type of the array out of the words."""
    shape, name = words.pop("shape", None), words.pop("dtype", None)
    if name not in TYPES or not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"expected an array, got {name!r:.100} {shape!r:.100}")
    return shape, np.dtype(name)
