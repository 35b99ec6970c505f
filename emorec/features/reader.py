"""Padded batches of features, gathered from memory, from mapped shards or from files."""

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.errors import UserError
from emorec.features.devices import own_device
from emorec.features.shard import Shard

PRELOADS = ("auto", "none", "ram", "device")
AT_ONCE_BYTES = 2_000_000  # gathered ahead: less than a processor's cache


@dataclass(frozen=True)
class Location:
    """Where the entries of a list of keys are; -1 for a shard means there is no entry.

    Attributes:
        shard: (N,) number of the shard.
        entry: (N,) number of the entry within its shard.
    """

    shard: NDArray[np.int64]
    entry: NDArray[np.int64]

    @property
    def found(self) -> NDArray[np.bool_]:
        return self.shard >= 0


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How stored features are read; nothing here changes them.

    Attributes:
        preload: "ram" loads them once, "device" loads them onto the GPU if there is one and gathers there, "none"
            leaves them on disk, "auto" is "ram" up to `resident_bytes` and "none" above.
        mmap: false reads with ordinary calls instead of mapping the files, for network disks that map badly.
        resident_bytes: see `preload`.
    """

    preload: str = "auto"
    mmap: bool = True
    resident_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.preload not in PRELOADS:
            raise UserError(f"expected features.preload in {PRELOADS}, got {self.preload!r}")

    def holds(self, size: int) -> bool:
        """Whether features of this size in bytes are loaded."""
        return self.preload in ("ram", "device") or (self.preload == "auto" and size <= self.resident_bytes)

    @property
    def device(self) -> str:
        """Where loaded features are held: of several GPUs on that of this rank."""
        return own_device() if self.preload == "device" else "cpu"


class FileRows:
    """The rows of a shard's values, read with ordinary calls; offers what `FeatureReader` asks of a tensor."""

    def __init__(self, shard: Shard) -> None:
        self.path: Path = shard.path
        self.dim = int(shard.values.shape[1])
        self.dtype = shard.values.dtype
        self.start = shard.values_start
        self._descriptor = os.open(shard.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def element_size(self) -> int:
        return int(self.dtype.itemsize)

    def narrow(self, _: int, start: int, length: int) -> Tensor:
        """Rows start … start + length - 1."""
        return self.index_select(0, torch.arange(start, start + length))

    def index_select(self, _: int, rows: Tensor) -> Tensor:
        """Rows (N,) as a tensor (N, D): one call for each run of neighbours."""
        numbers = rows.numpy()
        values = np.empty((len(numbers), self.dim), self.dtype)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        bounds = [0, *breaks.tolist(), len(numbers)]
        width = self.dim * self.element_size()
        for first, last in pairwise(bounds) if len(numbers) else []:
            place = self.start + int(numbers[first]) * width
            read = os.preadv(self._descriptor, [values[first:last].view(np.uint8).data], place)
            if read < (last - first) * width:
                raise OSError(None, "expected more bytes than the file has", str(self.path))
        return torch.from_numpy(values)


class FeatureReader:
    """Features of a list of places, such as all utterances of a corpus.

    Args:
        shards: of one spec.
        location: where each place's entry is.
        mapped: whether values are mapped, or read with ordinary calls.
    """

    def __init__(self, shards: Sequence[Shard], location: Location, *, mapped: bool = True) -> None:
        count = len(location.shard)
        start, length = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for number in np.unique(location.shard[location.found]):
            chosen = location.shard == number
            offsets = shards[number].offsets
            start[chosen] = offsets[location.entry[chosen]]
            length[chosen] = offsets[location.entry[chosen] + 1] - start[chosen]
        self._values: list[Tensor | FileRows] = [
            torch.from_numpy(shard.values) if mapped else FileRows(shard) for shard in shards
        ]
        self._flat = False
        self._shard = torch.from_numpy(np.where(length > 0, location.shard, -1))
        self._start = torch.from_numpy(start)
        self.length = torch.from_numpy(length)  # (N,) rows of each place; 0 where absent
        self.dim = int(shards[0].values.shape[1]) if shards else 0
        self.stores: Any = None

    @classmethod
    def absent(cls, count: int, dim: int) -> "FeatureReader":
        """A reader of features (T, `dim`) that none of `count` places has."""
        nowhere = np.full(count, -1)
        reader = cls([], Location(nowhere, nowhere))
        reader.dim = dim
        return reader

    @property
    def present(self) -> Tensor:
        """(N,) true where there are features."""
        return (self.length > 0).cpu()

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored values."""
        stored = str(self._values[0].dtype) if self._values else "float32"
        dtype: torch.dtype = getattr(torch, stored.removeprefix("torch."))
        return dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all features of this reader."""
        return int(self.length.sum()) * self.dim * (self._values[0].element_size() if self._values else 0)

    def gather(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Features of some places.

        Args:
            places: (B,) int64.

        Returns:
            values (B, T, D) as stored, zero where there is no data, and mask (B, T); T is at least 1.
        """
        places = places.to(self._start.device)
        if self._flat:  # one frame each, in memory: the places are the rows
            return self._values[0].index_select(0, places)[:, None], torch.ones(len(places), 1, dtype=torch.bool)
        length = self.length[places]
        longest = max(1, int(length.max())) if len(places) else 1
        mask = torch.arange(longest, device=places.device) < length[:, None]  # (B, T)
        if longest == 1 or not places.is_cpu:
            return self._select(places, mask), mask
        return self._copy(places, length, longest), mask

    def batches(self, places: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`gather` for batch after batch of places (N,); of one frame each in memory, for some batches at once."""
        size = batch_size * self.dim * self._values[0].element_size() if self._flat else AT_ONCE_BYTES
        for several in torch.split(places, batch_size * max(1, AT_ONCE_BYTES // size)):
            values, mask = self.gather(several)
            yield from zip(torch.split(values, batch_size), torch.split(mask, batch_size), strict=True)

    def _select(self, places: Tensor, mask: Tensor) -> Tensor:
        """The values of `gather` in a few calls, for any number of places."""
        rows = (self._start[places][:, None] + torch.arange(mask.shape[1], device=places.device))[mask]
        shard = self._shard[places][:, None].expand_as(mask)[mask]
        target = mask.flatten().nonzero().squeeze(1)
        values = torch.zeros(mask.numel(), self.dim, dtype=self.dtype, device=places.device)
        for number in torch.unique(shard).tolist():
            chosen = shard == number
            values.index_copy_(0, target[chosen], self._values[number].index_select(0, rows[chosen]))
        return values.view(*mask.shape, self.dim)

    def _copy(self, places: Tensor, length: Tensor, longest: int) -> Tensor:
        """The values of `gather`, one plain copy an utterance: its frames lie together, so that no index of frames is
        needed and padding is neither read nor written twice. For long sequences this is the faster way by half."""
        values = torch.empty(len(places), longest, self.dim, dtype=self.dtype)
        starts, shards = self._start[places].tolist(), self._shard[places].tolist()
        for row, shard, start, frames in zip(values, shards, starts, length.tolist(), strict=True):
            if frames:
                row[:frames] = self._values[shard].narrow(0, start, frames)
            if frames < longest:
                row[frames:] = 0
        return values

    def resident(self, device: str = "cpu") -> "FeatureReader":
        """The same reader with its features in memory, packed in the order of the places."""
        if not self._values:
            return self
        values = torch.empty(int(self.length.sum()), self.dim, dtype=self.dtype)
        start = torch.where(self.length > 0, torch.cumsum(self.length, 0) - self.length, 0)
        for number, shard_values in enumerate(self._values):
            chosen = self._shard == number
            lengths = self.length[chosen]
            within = torch.arange(int(lengths.sum())) - (torch.cumsum(lengths, 0) - lengths).repeat_interleave(lengths)
            source = self._start[chosen].repeat_interleave(lengths) + within
            values[start[chosen].repeat_interleave(lengths) + within] = shard_values.index_select(0, source)
        packed = FeatureReader([], Location(np.zeros(0, np.int64), np.zeros(0, np.int64)))
        packed._values, packed._shard = [values.to(device)], torch.where(self.length > 0, 0, -1).to(device)
        packed._start, packed.length, packed.dim = start.to(device), self.length.to(device), self.dim
        packed._flat = device == "cpu" and bool((self.length == 1).all())
        return packed
