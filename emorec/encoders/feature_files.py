"""Features that were computed elsewhere: arrays by utterance id, in one file or a folder. Nothing is unpickled."""

import threading
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from emorec.encoders.checkpoint import digest_files
from emorec.errors import UserError, raise_problems

FAULTS = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, SafetensorError)  # of files that are damaged
IDS = ".txt"  # beside a table in .npy: its rows' ids, one a line


class Header(NamedTuple):
    """What is known of an array before it is read.

    Attributes:
        shape: (D,) or (T, D) of a good one.
        fault: why it cannot be read; empty for a good one.
    """

    shape: tuple[int, ...]
    fault: str = ""


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def npy_header(stream: IO[bytes]) -> Header:
    """The header of an array in numpy's format.

    Raises:
        ValueError: it is in another format.
    """
    major, _ = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        return Header(shape, "holds Python objects, which only unpickling could read; save it as an array of numbers")
    return Header(shape, "" if dtype.kind in "fiu" else f"expected numbers, got {dtype}")


class FeatureFile(ABC):
    """Arrays (D,) or (T, D) by utterance id.

    Args:
        path: of the file or folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading = threading.Lock()  # an open archive serves one thread

    @property
    def files(self) -> Mapping[str, Path]:
        """{name: path} of all files whose content decides the arrays; where they lie does not count."""
        return {f"features{self.path.suffix}": self.path}

    @cached_property
    def digest(self) -> str:
        """sha256 over the content."""
        return digest_files(self.files)

    @property
    @abstractmethod
    def ids(self) -> Collection[str]:
        """The ids that there are features of."""

    def location(self, identifier: str) -> Path:
        """The file that holds an utterance's array."""
        return self.path

    @abstractmethod
    def header(self, identifier: str) -> Header:
        """What an utterance's array is, without reading it."""

    @abstractmethod
    def array(self, identifier: str) -> NDArray[Any]:
        """An utterance's array as it is stored."""

    def features(self, identifier: str) -> NDArray[np.float32]:
        """An utterance's features (T, D)."""
        with self._reading, np.errstate(over="ignore"):
            values = np.asarray(self.array(identifier)).astype(np.float32)
        return values.reshape(1, -1) if values.ndim == 1 else values

    @cached_property
    def headers(self) -> dict[str, Header]:
        """{utterance id: what its array is}."""
        found = {}
        for identifier in sorted(self.ids):
            try:
                found[identifier] = self.header(identifier)
            except FAULTS as error:
                found[identifier] = Header((), f"cannot be read: {first_line(error)}")
        return found

    @cached_property
    def dim(self) -> int:
        """The D of most arrays; 0 where none can be read."""
        widths = Counter(header.shape[-1] for header in self.headers.values() if header.shape and not header.fault)
        return widths.most_common(1)[0][0] if widths else 0

    def check(self) -> None:
        """Reads every array once.

        Raises:
            UserError: arrays are not as they must be; all of them at once.
        """
        faults = {name: header.fault or self._misshapen(header.shape) for name, header in self.headers.items()}
        for identifier, fault in faults.items():
            faults[identifier] = fault or self._strange(identifier)
        problems = [f"{identifier}: {fault}" for identifier, fault in faults.items() if fault]
        raise_problems(f"features in {self.path}", problems)

    def _misshapen(self, shape: tuple[int, ...]) -> str:
        if len(shape) not in (1, 2) or 0 in shape:
            return f"expected an array (D,) or (T, D) with T and D of at least 1, got {shape}"
        if shape[-1] != self.dim:
            return f"expected D={self.dim} as in most arrays, got an array {shape}"
        return ""

    def _strange(self, identifier: str) -> str:
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
        return Header(tuple(part.get_shape()), "" if numbers else f"expected numbers, got {part.get_dtype()}")

    def array(self, identifier: str) -> NDArray[Any]:
        values: NDArray[Any] = self._open.get_tensor(identifier).float().numpy()  # numpy knows no bfloat16
        return values


class NpzFile(FeatureFile):
    """One array a key in an .npz file."""

    @cached_property
    def _open(self) -> Any:
        found = np.load(self.path, allow_pickle=False)
        if not hasattr(found, "files"):
            raise ValueError("expected an archive of arrays, got one array, which is to be named .npy")
        return found

    @cached_property
    def ids(self) -> Collection[str]:
        return frozenset(self._open.files)

    def header(self, identifier: str) -> Header:
        with self._open.zip.open(f"{identifier}.npy") as stream:
            return npy_header(stream)

    def array(self, identifier: str) -> NDArray[Any]:
        values: NDArray[Any] = self._open[identifier]
        return values


class NpyFolder(FeatureFile):
    """A folder of <id>.npy files; an id may have folders of its own."""

    @cached_property
    def files(self) -> Mapping[str, Path]:
        return {path.relative_to(self.path).as_posix(): path for path in sorted(self.path.rglob("*.npy"))}

    @cached_property
    def ids(self) -> Collection[str]:
        return frozenset(name.removesuffix(".npy") for name in self.files)

    def location(self, identifier: str) -> Path:
        return self.files[f"{identifier}.npy"]

    def header(self, identifier: str) -> Header:
        with self.location(identifier).open("rb") as stream:
            return npy_header(stream)

    def array(self, identifier: str) -> NDArray[Any]:
        values: NDArray[Any] = np.load(self.location(identifier), allow_pickle=False)
        return values


class NpyTable(FeatureFile):
    """One array (N, D) or (N, T, D) in a .npy file, with the ids of its rows in a .txt file of the same name."""

    @property
    def files(self) -> Mapping[str, Path]:
        return {**super().files, f"features{IDS}": self.path.with_suffix(IDS)}

    @cached_property
    def _whole(self) -> Header:
        with self.path.open("rb") as stream:
            return npy_header(stream)

    @cached_property
    def ids(self) -> Collection[str]:
        return self._places.keys()

    @cached_property
    def _places(self) -> dict[str, int]:
        path = self.path.with_suffix(IDS)
        if not path.is_file():
            raise UserError(f"expected the ids of the rows of {self.path} in {path}, found no such file")
        names = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        rows = self._whole.shape[0] if self._whole.shape else 0
        if rows != len(names):
            raise UserError(f"expected {rows} ids in {path}, one for each row of {self.path.name}, got {len(names)}")
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        raise_problems(f"ids in {path}", [f"{name}: found more than once" for name in repeated])
        return {name: place for place, name in enumerate(names)}

    def header(self, identifier: str) -> Header:
        return Header(self._whole.shape[1:], self._whole.fault)

    @cached_property
    def _open(self) -> NDArray[Any]:
        values: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return values

    def array(self, identifier: str) -> NDArray[Any]:
        values: NDArray[Any] = self._open[self._places[identifier]]
        return values


FORMATS: Mapping[str, Callable[[Path], FeatureFile]] = {
    ".safetensors": SafetensorsFile,
    ".npz": NpzFile,
    ".npy": NpyTable,
}


def open_features(path: Path, where: str) -> FeatureFile:
    """The features at a path, in whichever of the formats it has.

    Raises:
        UserError: there is nothing, or nothing of a known format, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"expected features in {path}, found no such file or folder ({where})")
    if not path.is_dir() and path.suffix not in FORMATS:
        raise UserError(f"expected a folder or a file in {tuple(FORMATS)}, got {path} ({where})")
    found = NpyFolder(path) if path.is_dir() else FORMATS[path.suffix](path)
    try:
        if not found.ids:
            raise UserError(f"expected arrays by utterance id in {path}, found none ({where})")
    except FAULTS as error:
        raise UserError(f"the features in {path} cannot be read: {first_line(error)} ({where})") from error
    return found
