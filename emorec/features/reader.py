"""Padded batches of features, gathered from memory, memory-mapped shards or files."""

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

from emorec.features.shard import Shard

AHEAD_BYTES = 2_000_000  # gathered ahead: less than the cache of a processor


@dataclass(frozen=True)
class Location:
    """The shard and entry of each of N keys.

    Attributes:
        shard: (N,) index of the shard; -1 where there is no entry.
        entry: (N,) index of the entry within its shard.
    """

    shard: NDArray[np.int64]
    entry: NDArray[np.int64]

    @property
    def found(self) -> NDArray[np.bool_]:
        return self.shard >= 0


class FileRows:
    """The values of a shard, read with ordinary calls, behind the tensor methods that `FeatureReader` uses."""

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
        """The rows from `start` to `start + length - 1`."""
        return self.index_select(0, torch.arange(start, start + length))

    def index_select(self, _: int, rows: Tensor) -> Tensor:
        """The rows (N,) as a tensor (N, D), with one read for each run of consecutive rows."""
        indices = rows.numpy()
        values = np.empty((len(indices), self.dim), self.dtype)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        bounds = [0, *breaks.tolist(), len(indices)]
        width = self.dim * self.element_size()
        for first, last in pairwise(bounds) if len(indices) else []:
            offset = self.start + int(indices[first]) * width
            read = os.preadv(self._descriptor, [values[first:last].view(np.uint8).data], offset)
            if read < (last - first) * width:
                raise OSError(None, f"expected {(last - first) * width} bytes of rows, got {read}", str(self.path))
        return torch.from_numpy(values)


class FeatureReader:
    """Features of N utterances, addressed by their indices.

    Args:
        shards: shards of one spec.
        location: shard and entry of each utterance.
        mapped: whether values are memory-mapped, or read with ordinary calls.
    """

    def __init__(self, shards: Sequence[Shard], location: Location, *, mapped: bool = True) -> None:
        count = len(location.shard)
        start, length = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for number in np.unique(location.shard[location.found]):
            selected = location.shard == number
            offsets = shards[number].offsets
            start[selected] = offsets[location.entry[selected]]
            length[selected] = offsets[location.entry[selected] + 1] - start[selected]
        self._values: list[Tensor | FileRows] = [
            torch.from_numpy(shard.values) if mapped else FileRows(shard) for shard in shards
        ]
        self._flat = False
        self._shard = torch.from_numpy(np.where(length > 0, location.shard, -1))
        self._start = torch.from_numpy(start)
        self.length = torch.from_numpy(length)  # (N,) rows of each utterance; 0 where absent
        self.dim = int(shards[0].values.shape[1]) if shards else 0
        self.stores: Any = None

    @classmethod
    def absent(cls, count: int, dim: int) -> "FeatureReader":
        """A reader of features (T, `dim`) of `count` utterances, all of them absent."""
        absent = np.full(count, -1)
        reader = cls([], Location(absent, absent))
        reader.dim = dim
        return reader

    @property
    def present(self) -> Tensor:
        """(N,) true where there are features."""
        return (self.length > 0).cpu()

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        stored = str(self._values[0].dtype) if self._values else "float32"
        dtype: torch.dtype = getattr(torch, stored.removeprefix("torch."))
        return dtype

    @property
    def nbytes(self) -> int:
        """Size of all features of this reader, bytes."""
        return int(self.length.sum()) * self.dim * (self._values[0].element_size() if self._values else 0)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """A padded batch of features.

        Args:
            indices: (B,) int64, indices of utterances.

        Returns:
            values (B, T, D) of the stored dtype, zero where there is no data, and mask (B, T) with T ≥ 1.
        """
        indices = indices.to(self._start.device)
        if self._flat:  # one frame each, in memory: indices and rows are the same
            return self._values[0].index_select(0, indices)[:, None], torch.ones(len(indices), 1, dtype=torch.bool)
        length = self.length[indices]
        longest = max(1, int(length.max())) if len(indices) else 1
        mask = torch.arange(longest, device=indices.device) < length[:, None]  # (B, T)
        if longest == 1 or not indices.is_cpu:
            return self._select(indices, mask), mask
        return self._copy(indices, length, longest), mask

    def batches(self, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `gather` for consecutive batches of indices (N,).

        Single frames in memory are gathered for several batches at once.
        """
        size = batch_size * self.dim * self._values[0].element_size() if self._flat else AHEAD_BYTES
        for block in torch.split(indices, batch_size * max(1, AHEAD_BYTES // size)):
            values, mask = self.gather(block)
            yield from zip(torch.split(values, batch_size), torch.split(mask, batch_size), strict=True)

    def _select(self, indices: Tensor, mask: Tensor) -> Tensor:
        """The values of `gather`, in a few calls for any number of utterances."""
        rows = (self._start[indices][:, None] + torch.arange(mask.shape[1], device=indices.device))[mask]
        shard = self._shard[indices][:, None].expand_as(mask)[mask]
        target = mask.flatten().nonzero().squeeze(1)
        values = torch.zeros(mask.numel(), self.dim, dtype=self.dtype, device=indices.device)
        for number in torch.unique(shard).tolist():
            selected = shard == number
            values.index_copy_(0, target[selected], self._values[number].index_select(0, rows[selected]))
        return values.view(*mask.shape, self.dim)

    def _copy(self, indices: Tensor, length: Tensor, longest: int) -> Tensor:
        """The values of `gather`, with one copy per utterance.

        The frames of an utterance are contiguous, so this needs no index of frames and writes padding once. For long
        sequences it takes half the time of `_select`.
        """
        values = torch.empty(len(indices), longest, self.dim, dtype=self.dtype)
        starts, shards = self._start[indices].tolist(), self._shard[indices].tolist()
        for row, shard, start, frames in zip(values, shards, starts, length.tolist(), strict=True):
            if frames:
                row[:frames] = self._values[shard].narrow(0, start, frames)
            if frames < longest:
                row[frames:] = 0
        return values

    def resident(self, device: str = "cpu") -> "FeatureReader":
        """The same reader with its features in memory, packed in the order of the utterances."""
        if not self._values:
            return self
        values = torch.empty(int(self.length.sum()), self.dim, dtype=self.dtype)
        start = torch.where(self.length > 0, torch.cumsum(self.length, 0) - self.length, 0)
        for number, shard_values in enumerate(self._values):
            selected = self._shard == number
            lengths = self.length[selected]
            within = torch.arange(int(lengths.sum())) - (torch.cumsum(lengths, 0) - lengths).repeat_interleave(lengths)
            source = self._start[selected].repeat_interleave(lengths) + within
            values[start[selected].repeat_interleave(lengths) + within] = shard_values.index_select(0, source)
        packed = FeatureReader([], Location(np.zeros(0, np.int64), np.zeros(0, np.int64)))
        packed._values, packed._shard = [values.to(device)], torch.where(self.length > 0, 0, -1).to(device)
        packed._start, packed.length, packed.dim = start.to(device), self.length.to(device), self.dim
        packed._flat = device == "cpu" and bool((self.length == 1).all())
        return packed
