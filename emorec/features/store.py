"""The store of one feature: a folder of immutable shards, and the reader that gathers padded batches from them."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.features.shard import KEY_BYTES, NAME_DIGITS, SUFFIX, Shard, ShardError, open_shard, write_shard
from emorec.features.spec import FeatureSpec
from emorec.storage.digests import FileDigests, canonical_json

log = logging.getLogger(__name__)

QUARANTINE_SUFFIX = ".bad"


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


class FeatureStore:
    """The features of one spec under `root`.

    Args:
        root: the cache; the store is a folder in it, named by the spec.
        spec: what is stored.
        digests: verifies a shard against its name when it is first opened.
    """

    def __init__(self, root: Path, spec: FeatureSpec, digests: FileDigests) -> None:
        self.spec = spec
        self.folder = root / spec.folder_name
        self.digests = digests
        self.shards: list[Shard] = []
        self._known: set[str] = set()
        self._prefixes: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._keys: NDArray[np.uint8] = np.zeros((0, KEY_BYTES), np.uint8)
        self._places: NDArray[np.int64] = np.zeros((0, 2), np.int64)  # (shard, entry)
        self.refresh()

    def refresh(self) -> None:
        """Opens shards that have come since the last look. One that is broken or unreadable is named and left out."""
        names = sorted(path.name for path in self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        fresh = [name for name in names if name not in self._known]
        for name in fresh:
            self._known.add(name)
            shard = self._opened(self.folder / name)
            if shard is not None:
                self.shards.append(shard)
        if fresh:
            self._index()
            with suppress(OSError):  # a read-only store keeps no time of last use
                os.utime(self.folder)

    def _opened(self, path: Path) -> Shard | None:
        try:
            if self.digests.digest(path)[:NAME_DIGITS] != path.stem:
                raise ShardError("the content does not match its digest")
            shard = open_shard(path)
            if canonical_json(shard.spec) != self.spec.canonical:
                raise ShardError(f"expected features of {self.spec.canonical}, found {shard.spec}")
        except ShardError as error:
            self._quarantine(path, error)
            return None
        except OSError as error:
            log.warning("the shard %s cannot be read and counts as absent: %s", path, error)
            return None
        return shard

    def _quarantine(self, path: Path, error: ShardError) -> None:
        log.warning("the shard %s is broken and is set aside; its features are computed anew: %s", path, error)
        with suppress(OSError):
            path.rename(path.with_name(path.name + QUARANTINE_SUFFIX))

    def _index(self) -> None:
        """Sorts all keys by their first eight bytes; of equal keys the first shard's counts."""
        keys = np.concatenate([shard.keys for shard in self.shards] or [self._keys[:0]])
        counts = [len(shard.keys) for shard in self.shards]
        places = np.stack(
            [
                np.repeat(np.arange(len(counts)), counts),
                np.concatenate([np.arange(count) for count in counts] or [np.zeros(0, np.int64)]),
            ],
            axis=1,
        )
        prefixes = _prefixes(keys)
        order = np.argsort(prefixes, kind="stable")
        self._prefixes, self._keys, self._places = prefixes[order], keys[order], places[order]

    def __len__(self) -> int:
        return len(self._keys)

    def locate(self, keys: Sequence[bytes]) -> Location:
        """Where the entries of `keys` (32 bytes each) are."""
        wanted = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        shard = np.full(len(wanted), -1, np.int64)
        entry = np.full(len(wanted), -1, np.int64)
        if len(self._keys) == 0 or len(wanted) == 0:
            return Location(shard, entry)
        place = np.searchsorted(self._prefixes, _prefixes(wanted))
        open_ = np.arange(len(wanted))
        while len(open_):  # once, and again only for keys whose first eight bytes are shared
            open_ = open_[place[open_] < len(self._keys)]
            equal = (self._keys[place[open_]] == wanted[open_]).all(axis=1)
            shard[open_[equal]], entry[open_[equal]] = self._places[place[open_[equal]]].T
            open_ = open_[~equal]
            open_ = open_[self._prefixes[place[open_]] == _prefixes(wanted[open_])]
            place[open_] += 1
        return Location(shard, entry)

    def reasons(self, keys: Sequence[bytes]) -> dict[int, str]:
        """{place in `keys`: why its source cannot be decoded}."""
        location = self.locate(keys)
        found = {}
        for number, shard in enumerate(self.shards):
            if shard.reasons:
                for place in np.flatnonzero(location.shard == number):
                    if (reason := shard.reasons.get(int(location.entry[place]))) is not None:
                        found[int(place)] = reason
        return found

    def add(self, keys: list[bytes], values: list[NDArray[np.floating]], reasons: dict[int, str]) -> None:
        """Publishes entries as one more shard."""
        write_shard(self.folder, self.spec, keys, values, reasons)

    def reader(self, keys: Sequence[bytes | None], *, resident_bytes: int) -> "FeatureReader":
        """A reader whose place n holds the features of `keys[n]`; `None`, or a key without features, is absent.

        Args:
            keys: one an utterance.
            resident_bytes: features up to this size are held in memory instead of mapped.
        """
        location = self.locate([key or bytes(KEY_BYTES) for key in keys])
        reader = FeatureReader(self.shards, location)
        return reader.resident() if reader.nbytes <= resident_bytes else reader

    def describe(self) -> dict[str, object]:
        """The spec as a mapping."""
        return asdict(self.spec)


def _prefixes(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)


class FeatureReader:
    """Padded batches of features, gathered without a loop over utterances.

    Args:
        shards: of one spec.
        location: where each place's entry is.
    """

    def __init__(self, shards: Sequence[Shard], location: Location) -> None:
        count = len(location.shard)
        start, length = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for number in np.unique(location.shard[location.found]):
            chosen = location.shard == number
            offsets = shards[number].offsets
            start[chosen] = offsets[location.entry[chosen]]
            length[chosen] = offsets[location.entry[chosen] + 1] - start[chosen]
        self._values = [torch.from_numpy(shard.values) for shard in shards]
        self._shard = torch.from_numpy(np.where(length > 0, location.shard, -1))
        self._start = torch.from_numpy(start)
        self.length = torch.from_numpy(length)  # (N,) rows of each place; 0 where absent
        self.dim = int(shards[0].values.shape[1]) if shards else 0

    @property
    def present(self) -> Tensor:
        """(N,) true where there are features."""
        return self.length > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all features of this reader."""
        return int(self.length.sum()) * self.dim * (self._values[0].element_size() if self._values else 0)

    def gather(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Features of some places.

        Args:
            places: (B,) int64.

        Returns:
            values (B, T, D) float32, zero where there is no data, and mask (B, T); T is at least 1.
        """
        length = self.length[places]
        longest = max(1, int(length.max())) if len(places) else 1
        steps = torch.arange(longest)
        mask = steps < length[:, None]  # (B, T)
        shard = self._shard[places]
        numbers = np.unique(shard.numpy()).tolist()
        rows = self._start[places][:, None] + torch.minimum(steps, (length - 1).clamp_min(0)[:, None])  # (B, T)
        if len(numbers) == 1 and numbers[0] >= 0:
            values = self._values[numbers[0]].index_select(0, rows.flatten()).float().view(*rows.shape, self.dim)
        else:
            values = torch.zeros(*rows.shape, self.dim)
            for number in numbers:
                if number >= 0:
                    chosen = shard == number
                    picked = self._values[number].index_select(0, rows[chosen].flatten()).float()
                    values[chosen] = picked.view(-1, longest, self.dim)
        if not bool(mask.all()):
            values *= mask[:, :, None]
        return values, mask

    def resident(self) -> "FeatureReader":
        """The same reader with its features in memory, packed in the order of the places."""
        if not self._values:
            return self
        total = int(self.length.sum())
        values = torch.empty(total, self.dim, dtype=self._values[0].dtype)
        start = torch.cumsum(self.length, 0) - self.length
        for number, shard_values in enumerate(self._values):
            chosen = self._shard == number
            lengths = self.length[chosen]
            within = torch.arange(int(lengths.sum())) - (torch.cumsum(lengths, 0) - lengths).repeat_interleave(lengths)
            source = self._start[chosen].repeat_interleave(lengths) + within
            target = start[chosen].repeat_interleave(lengths) + within
            values[target] = shard_values.index_select(0, source)
        packed = FeatureReader.__new__(FeatureReader)
        packed._values, packed._shard = [values], torch.where(self.length > 0, 0, -1)
        packed._start, packed.length, packed.dim = start, self.length, self.dim
        return packed
