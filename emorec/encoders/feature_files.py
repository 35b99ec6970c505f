"""Features that were computed elsewhere: arrays by utterance id, in one file or a folder. Nothing is unpickled."""

import lzma
import math
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from emorec.errors import UserError, first_line, raise_problems
from emorec.storage.regular_files import read_regular, require_regular

# errors of damaged files
FAULTS = (
    *(OSError, EOFError, KeyError, ValueError, RuntimeError, MemoryError),
    *(SafetensorError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
LARGEST_ARRAY = 1 << 28  # bytes in float32, or as they are stored: a file of a few kilobytes can claim any size
LARGEST_RATIO = 200  # of the arrays of an archive to the archive, where it holds more than `LARGEST_ARRAY` bytes
IDS = ".txt"  # file beside a table in .npy: the ids of its rows, one a line


class Header(NamedTuple):
    """Shape of an array, (D,) or (T, D) of a valid one, and why it cannot be read; empty for a valid one."""

    shape: tuple[int, ...]
    fault: str = ""

    def within(self, largest: int, itemsize: int = 4) -> "Header":
        """The header, with a fault where the array takes more than `largest` bytes."""
        size = math.prod(self.shape) * max(4, itemsize)
        if self.fault or size <= largest:
            return self
        return Header(self.shape, f"expected at most {largest} bytes, got an array {self.shape} of {size}")


def npy_header(stream: IO[bytes], length: int) -> tuple[Header, int]:
    """The header of an array in numpy's format, and the bytes of one of its numbers; `length`: bytes of the file.

    Raises:
        ValueError: the array is in another format.
    """
    major, _ = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except (SyntaxError, TokenError) as error:  # the header is a literal of Python
        raise ValueError(f"a header that is no header: {error}") from error
    claimed, held = math.prod(shape) * dtype.itemsize, length - stream.tell()
    fault = ""
    if dtype.hasobject:
        fault = "holds Python objects, which only unpickling could read; save an array of numbers instead"
    elif dtype.kind not in "fiu":
        fault = f"expected numbers, got {dtype}"
    elif min(shape, default=0) < 0 or claimed != held:
        fault = f"cannot be read: expected {claimed} bytes for an array {shape} of {dtype}, got {held}"
    return Header(shape, fault), dtype.itemsize


class FeatureFile(ABC):
    """Arrays (D,) or (T, D) by utterance id, in the file or folder `path`, of at most `largest` bytes each."""

    def __init__(self, path: Path, largest: int = LARGEST_ARRAY) -> None:
        self.path = path
        self.largest = largest
        self._reading = threading.Lock()  # an open archive serves one thread

    @property
    def files(self) -> Mapping[str, Path]:
        """{name: path} of all files whose content decides the arrays; the folder they are in does not count."""
        return {f"features{self.path.suffix}": self.path}

    @property
    @abstractmethod
    def ids(self) -> Collection[str]:
        """The utterance ids that have features."""

    def location(self, identifier: str) -> Path:
        """The file of an utterance's array."""
        return self.path

    @abstractmethod
    def header(self, identifier: str) -> Header:
        """The header of an utterance's array."""

    @abstractmethod
    def array(self, identifier: str) -> Any:
        """Reads an utterance's array as it is stored."""

    def features(self, identifier: str) -> NDArray[np.float32]:
        """Reads an utterance's features (T, D)."""
        with self._reading, np.errstate(over="ignore"):
            values = np.asarray(self.array(identifier)).astype(np.float32)
        return values.reshape(1, -1) if values.ndim == 1 else values

    @cached_property
    def headers(self) -> dict[str, Header]:
        """{utterance id: header of its array}."""
        headers = {}
        for identifier in sorted(self.ids):
            try:
                headers[identifier] = self.header(identifier)
            except FAULTS as error:
                headers[identifier] = Header((), f"cannot be read: {first_line(error)}")
        return headers

    @cached_property
    def dim(self) -> int:
        """The D of most arrays; 0 where none can be read."""
        widths = Counter(header.shape[-1] for header in self.headers.values() if header.shape and not header.fault)
        return widths.most_common(1)[0][0] if widths else 0

    def check(self) -> None:
        """Reads every array once.

        Raises:
            UserError: lists all arrays that are not valid.
        """
        faults = {
            name: header.fault or self._shape_fault(header.shape) or self._value_fault(name)
            for name, header in self.headers.items()
        }
        raise_problems(f"features in {self.path}", [f"{name}: {fault}" for name, fault in faults.items() if fault])

    def _shape_fault(self, shape: tuple[int, ...]) -> str:
        if len(shape) not in (1, 2) or 0 in shape:
            return f"expected an array (D,) or (T, D) with T and D of at least 1, got {shape}"
        if shape[-1] != self.dim:
            return f"expected D={self.dim} as in most arrays, got an array {shape}"
        return ""

    def _value_fault(self, identifier: str) -> str:
        try:
            count = int((~np.isfinite(self.features(identifier))).sum())
        except FAULTS as error:
            return f"cannot be read: {first_line(error)}"
        return f"expected finite numbers in float32, got {count} that are not" if count else ""


class SafetensorsFile(FeatureFile):
    """One tensor a key in a .safetensors file."""

    @cached_property
    def _open(self) -> Any:
        return safe_open(self.path, framework="pt")

    @cached_property
    def ids(self) -> Collection[str]:
        return frozenset(self._open.keys())

    def header(self, identifier: str) -> Header:
        part = self._open.get_slice(identifier)
        numbers = part.get_dtype().startswith(("F", "BF", "I", "U"))
        header = Header(tuple(part.get_shape()), "" if numbers else f"expected numbers, got {part.get_dtype()}")
        return header.within(self.largest, itemsize=8)

    def array(self, identifier: str) -> Any:
        return self._open.get_tensor(identifier).float().numpy()  # numpy has no bfloat16


class NpzFile(FeatureFile):
    """One array a key in an .npz file."""

    @cached_property
    def _open(self) -> Any:
        archive = np.load(self.path, allow_pickle=False)
        if not hasattr(archive, "files"):
            raise ValueError("expected an archive of arrays, got a single array; name it .npy")
        size, packed = sum(entry.file_size for entry in archive.zip.infolist()), self.path.stat().st_size
        if size > max(self.largest, LARGEST_RATIO * packed):
            raise ValueError(f"{size} bytes unpacked, more than {LARGEST_RATIO} times the size of the archive")
        return archive

    @cached_property
    def ids(self) -> Collection[str]:
        return frozenset(self._open.files)

    def header(self, identifier: str) -> Header:
        entry = self._open.zip.getinfo(f"{identifier}.npy")
        with self._open.zip.open(entry) as stream:
            header, itemsize = npy_header(stream, entry.file_size)
            return header.within(self.largest, itemsize)

    def array(self, identifier: str) -> Any:
        return self._open[identifier]


class NpyFolder(FeatureFile):
    """A folder of <id>.npy files; an id may have folders of its own."""

    @cached_property
    def files(self) -> Mapping[str, Path]:
        files = {path.relative_to(self.path).as_posix(): path for path in sorted(self.path.rglob("*.npy"))}
        for name, path in files.items():
            name.encode()  # a name in another encoding is no id
            require_regular(path)
        return files

    @cached_property
    def ids(self) -> Collection[str]:
        return frozenset(name.removesuffix(".npy") for name in self.files)

    def location(self, identifier: str) -> Path:
        return self.files[f"{identifier}.npy"]

    def header(self, identifier: str) -> Header:
        path = self.location(identifier)
        with path.open("rb") as stream:
            header, itemsize = npy_header(stream, path.stat().st_size)
            return header.within(self.largest, itemsize)

    def array(self, identifier: str) -> Any:
        return np.load(self.location(identifier), allow_pickle=False)


class NpyTable(FeatureFile):
    """One array (N, D) or (N, T, D) in a .npy file, with the ids of its rows in a .txt file of the same name."""

    @property
    def files(self) -> Mapping[str, Path]:
        return {**super().files, f"features{IDS}": self.path.with_suffix(IDS)}

    @cached_property
    def _whole(self) -> tuple[Header, int]:
        """The header of all rows, and the bytes of one of their numbers."""
        with self.path.open("rb") as stream:
            return npy_header(stream, self.path.stat().st_size)

    @cached_property
    def _rows(self) -> dict[str, int]:
        path = self.files[f"features{IDS}"]
        if not path.exists():
            raise UserError(f"expected the ids of the rows of {self.path} in {path}, got no such file")
        text = read_regular(path, most=self.largest).decode("utf-8-sig")
        names = text.replace("\r\n", "\n").rstrip("\n").split("\n")
        whole, _ = self._whole
        if whole.fault:
            raise ValueError(whole.fault)
        count = whole.shape[0] if whole.shape else 0
        if count != len(names):
            raise UserError(f"expected {count} ids in {path}, one for each row of {self.path.name}, got {len(names)}")
        repeated = sorted(name for name, times in Counter(names).items() if times > 1)
        empty = [f"line {row}: expected an id, got nothing" for row, name in enumerate(names, 1) if not name.strip()]
        raise_problems(f"ids in {path}", [*(f"{name}: found more than once" for name in repeated), *empty])
        return {name: row for row, name in enumerate(names)}

    @property
    def ids(self) -> Collection[str]:
        return self._rows.keys()

    def header(self, identifier: str) -> Header:
        whole, itemsize = self._whole
        return Header(whole.shape[1:], whole.fault).within(self.largest, itemsize)

    @cached_property
    def _open(self) -> Any:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def array(self, identifier: str) -> Any:
        return self._open[self._rows[identifier]]


FORMATS: Mapping[str, Callable[[Path, int], FeatureFile]] = {
    ".safetensors": SafetensorsFile,
    ".npz": NpzFile,
    ".npy": NpyTable,
}


def open_features(path: Path, where: str, largest: int = LARGEST_ARRAY) -> FeatureFile:
    """Opens the features at a path, in any of the formats.

    Args:
        path: file or folder.
        where: the path's key in the config.
        largest: bytes of one array.

    Raises:
        UserError: the path is missing, empty, damaged or in an unknown format.
    """
    if not path.exists():
        raise UserError(f"expected features in {path}, got no such file or folder ({where})")
    if not path.is_dir() and path.suffix not in FORMATS:
        raise UserError(f"expected a folder or a file in {tuple(FORMATS)}, got {path} ({where})")
    features = NpyFolder(path, largest) if path.is_dir() else FORMATS[path.suffix](path, largest)
    try:
        if not path.is_dir():
            require_regular(path)
        if not features.ids:
            raise UserError(f"expected arrays by utterance id in {path}, got none ({where})")
    except FAULTS as error:
        raise UserError(f"the features in {path} cannot be read: {first_line(error)} ({where})") from error
    return features
