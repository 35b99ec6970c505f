"""Padded batches of features, gathered from memory, memory-mapped shards or files."""

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.features.shard import Shard

AHEAD_BYTES = 2_000_000  # gathered ahead: less than the cache of a processor


@dataclass(frozen=True)
class Location:
    """The shard (N,), -1 where there is none, and the entry (N,) within the shard of each of N keys."""

    shard: NDArray[np.int64]
    entry: NDArray[np.int64]

    @property
    def found(self) -> NDArray[np.bool_]:
        return self.shard >= 0


class FileRows:
    """The values of a shard, read with ordinary calls, behind the tensor methods that `FeatureReader` uses."""

    def __init__(self, shard: Shard) -> None:
        self.path, self.start = shard.path, shard.values_start
        empty = torch.from_numpy(shard.values[:0])
        self.dim, self.dtype = empty.shape[1], empty.dtype
        self._descriptor = os.open(shard.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def narrow(self, _: int, start: int, length: int) -> Tensor:
        """The rows from `start` to `start + length - 1`."""
        return self.index_select(0, torch.arange(start, start + length))

    def index_select(self, _: int, rows: Tensor) -> Tensor:
        """The rows (N,) as a tensor (N, D), with one read for each run of consecutive rows."""
        indices = rows.numpy()
        values = torch.empty(len(indices), self.dim, dtype=self.dtype)
        buffer = values.numpy().view(np.uint8)
        width = self.dim * self.dtype.itemsize
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for first, last in pairwise([0, *breaks.tolist(), len(indices)]) if len(indices) else []:
            read = os.preadv(self._descriptor, [buffer[first:last].data], self.start + int(indices[first]) * width)
            if read < (last - first) * width:
                raise OSError(None, f"expected {(last - first) * width} bytes of rows, got {read}", str(self.path))
        return values


class FeatureReader:
    """Features of N utterances, addressed by their indices.

    Args:
        values: (rows, D) of each shard.
        shard: (N,) index of each utterance's shard.
        start: (N,) its first row in the shard.
        length: (N,) number of its rows; 0 where it is absent.
        dim: D.
    """

    def __init__(
        self, values: Sequence[Tensor | FileRows], shard: Tensor, start: Tensor, length: Tensor, dim: int
    ) -> None:
        self._values, self._shard, self._start, self.length, self.dim = values, shard, start, length, dim
        self._flat = False  # whether each utterance is one row in memory, and indices and rows are the same
        self.stores: Any = None

    @classmethod
    def from_shards(cls, shards: Sequence[Shard], location: Location, *, mapped: bool) -> "FeatureReader":
        """Reads memory-mapped values if `mapped`, else with ordinary calls."""
        start, length = np.zeros_like(location.entry), np.zeros_like(location.entry)
        for number in np.unique(location.shard[location.found]):
            selected = location.shard == number
            offsets = shards[number].offsets
            start[selected] = offsets[location.entry[selected]]
            length[selected] = offsets[location.entry[selected] + 1] - start[selected]
        values = [torch.from_numpy(shard.values) if mapped else FileRows(shard) for shard in shards]
        dim = int(shards[0].values.shape[1]) if shards else 0
        shard, first, rows = (torch.from_numpy(item) for item in (location.shard, start, length))
        return cls(values, shard, first, rows, dim)

    @classmethod
    def absent(cls, count: int, dim: int) -> "FeatureReader":
        """A reader of features (T, `dim`) of `count` utterances, all of them absent."""
        zeros = torch.zeros(count, dtype=torch.int64)
        return cls([], zeros, zeros, zeros, dim)

    @property
    def present(self) -> Tensor:
        """(N,) true where there are features."""
        return (self.length > 0).cpu()

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        return self._values[0].dtype if self._values else torch.float32

    @property
    def nbytes(self) -> int:
        """Size of all features of this reader, bytes."""
        return int(self.length.sum()) * self.dim * self.dtype.itemsize

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """A padded batch of the utterances at indices (B,): values (B, T, D) of the stored dtype, zero where there is
        no data, and mask (B, T) with T ≥ 1."""
        indices = indices.to(self._start.device)
        if self._flat:
            return self._values[0].index_select(0, indices)[:, None], torch.ones(len(indices), 1, dtype=torch.bool)
        length = self.length[indices]
        longest = max(1, int(length.max())) if len(indices) else 1
        mask = torch.arange(longest, device=indices.device) < length[:, None]  # (B, T)
        if longest == 1 or not indices.is_cpu:
            return self._select(indices, mask), mask
        return self._copy(indices, length, longest), mask

    def batches(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `gather` for indices (N,) in batches of some sizes; single frames in memory are gathered for several
        batches at once."""
        at_once = AHEAD_BYTES // (max(sizes, default=1) * self.dim * self.dtype.itemsize) if self._flat else 1
        blocks = [list(sizes[start : start + max(1, at_once)]) for start in range(0, len(sizes), max(1, at_once))]
        for block, rows in zip(blocks, torch.split(indices, [sum(block) for block in blocks]), strict=True):
            values, mask = self.gather(rows)
            yield from zip(torch.split(values, block), torch.split(mask, block), strict=True)

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
        start = torch.cumsum(self.length, 0) - self.length
        for number, stored in enumerate(self._values):
            length = torch.where(self._shard == number, self.length, 0)
            within = torch.arange(int(length.sum())) - (torch.cumsum(length, 0) - length).repeat_interleave(length)
            rows = stored.index_select(0, self._start.repeat_interleave(length) + within)
            values[start.repeat_interleave(length) + within] = rows
        shard, start, length = (item.to(device) for item in (torch.zeros_like(start), start, self.length))
        packed = FeatureReader([values.to(device)], shard, start, length, self.dim)
        packed._flat = device == "cpu" and bool((self.length == 1).all())
        return packed
