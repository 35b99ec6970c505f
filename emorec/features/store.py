"""The store of one feature: a folder of immutable shards, and an index of their keys."""

import logging
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emorec.config.schema import FeaturesConfig
from emorec.errors import UserError
from emorec.features.devices import own_device
from emorec.features.reader import FeatureReader, Location
from emorec.features.shard import KEY_BYTES, SUFFIX, Shard, ShardError, quarantine, verified_shard, write_shard
from emorec.features.spec import FeatureSpec
from emorec.storage.claims import Claim
from emorec.storage.digests import FileDigests
from emorec.storage.folders import list_folder
from emorec.storage.leases import take_lease

log = logging.getLogger(__name__)

CLAIM = "extraction.claim"  # in the folder, held for a moment by a process that shares out work or merges shards


class FeatureStore:
    """The features of one spec: a folder of the cache `root`, named by the spec. `digests` verify each new shard."""

    def __init__(self, root: Path, spec: FeatureSpec, digests: FileDigests) -> None:
        self.spec = spec
        self.folder = root / spec.folder_name
        self.digests = digests
        self.shards: list[Shard] = []
        self._lease: Claim | None = None
        self._known: set[str] = set()
        self._prefixes: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._keys: NDArray[np.uint8] = np.zeros((0, KEY_BYTES), np.uint8)
        self._locations: NDArray[np.int64] = np.zeros((0, 2), np.int64)  # (shard, entry)
        self.refresh()

    def refresh(self) -> None:
        """Opens new shards. A broken or unreadable shard is logged and skipped."""
        count = len(self.shards)
        complete = False
        while not complete:  # a shard that vanished after it was listed was merged into another: list again
            complete = True
            for path in list_folder(self.folder, f"*{SUFFIX}"):
                if path.name in self._known:
                    continue
                try:
                    self.shards.append(self._open(path))
                except ShardError as error:
                    quarantine(path, error)
                    continue  # the same features, computed again, have the same name
                except FileNotFoundError:
                    if not path.is_symlink():  # a link without a target stays as it is
                        complete = False
                        continue
                except OSError as error:
                    log.warning("the shard %s cannot be read and is skipped: %s", path, error)
                    continue  # it may be replaced
                self._known.add(path.name)
        if len(self.shards) > count:
            self._check_dimensions()
            self._index()
        if self.shards:
            with suppress(OSError):  # a read-only store records no time of last use
                os.utime(self.folder)

    def reopen(self) -> None:
        """Closes all shards and opens the present ones."""
        self.shards, self._known = [], set()
        self._index()
        self.refresh()

    def _open(self, path: Path) -> Shard:
        shard = verified_shard(path, self.digests)
        if shard.spec_digest != self.spec.digest:
            raise ShardError(f"expected features of {self.spec.canonical}, got {shard.spec}")
        return shard

    def _check_dimensions(self) -> None:
        """Sets all shards aside where their features differ in dimension, since none is known to be right."""
        dimensions = sorted({shard.dim for shard in self.shards})
        if len(dimensions) > 1:
            for shard in self.shards:
                quarantine(shard.path, ShardError(f"the shards of this folder have the dimensions {dimensions}"))
                self._known.discard(shard.path.name)
            self.shards = []

    def _index(self) -> None:
        """Sorts all keys by their first eight bytes. Of equal keys that of the first shard is used."""
        keys = np.concatenate([self._keys[:0], *(shard.keys for shard in self.shards)])
        sizes = [(number, len(shard.keys)) for number, shard in enumerate(self.shards)]
        pairs = [np.stack([np.full(size, number), np.arange(size)], axis=1) for number, size in sizes]
        locations = np.concatenate([self._locations[:0], *pairs])
        prefixes = _prefixes(keys)
        order = np.argsort(prefixes, kind="stable")
        self._prefixes, self._keys, self._locations = prefixes[order], keys[order], locations[order]

    def __len__(self) -> int:
        return len(self._keys)

    def locate(self, keys: Sequence[bytes]) -> Location:
        """The shards and entries of `keys` (32 bytes each)."""
        wanted = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        shard = np.full(len(wanted), -1, np.int64)
        entry = np.full(len(wanted), -1, np.int64)
        if len(self._keys) == 0 or len(wanted) == 0:
            return Location(shard, entry)
        position = np.searchsorted(self._prefixes, _prefixes(wanted))
        pending = np.arange(len(wanted))
        while len(pending):  # a second time only for keys that share their first eight bytes
            pending = pending[position[pending] < len(self._keys)]
            equal = (self._keys[position[pending]] == wanted[pending]).all(axis=1)
            shard[pending[equal]], entry[pending[equal]] = self._locations[position[pending[equal]]].T
            pending = pending[~equal]
            pending = pending[self._prefixes[position[pending]] == _prefixes(wanted[pending])]
            position[pending] += 1
        return Location(shard, entry)

    def reasons(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """{key: why its source cannot be decoded} of those of `keys` whose source cannot."""
        location = self.locate(keys)
        reasons = {}
        for number, shard in enumerate(self.shards):
            if shard.reasons:
                for index in np.flatnonzero(location.shard == number).tolist():
                    if (reason := shard.reasons.get(int(location.entry[index]))) is not None:
                        reasons[keys[index]] = reason
        return reasons

    def add(self, keys: list[bytes], values: list[NDArray[np.floating]], reasons: dict[int, str]) -> None:
        """Writes entries as a new shard."""
        write_shard(self.folder, self.spec, keys, values, reasons)

    def reader(self, keys: Sequence[bytes | None], settings: FeaturesConfig) -> FeatureReader:
        """A reader with the features of `keys[n]` at index n, absent for `None` and for keys without features."""
        return open_reader([(self, keys)], settings)

    def lease(self) -> None:
        """Keeps maintenance from removing the store while features are mapped; ends with this object."""
        if self._lease is None and self.shards and (lease := take_lease(self.folder)) is not None:
            self._lease = lease
            weakref.finalize(self, lease.release)


def open_reader(
    parts: Sequence[tuple[FeatureStore, Sequence[bytes | None]]], settings: FeaturesConfig
) -> FeatureReader:
    """One reader over the equally many keys of several stores, concatenated. The features of all stores have one
    dimension. `None` in a later part repeats the features that the first part has at the same index."""
    stores = [store for store, _ in parts]
    while True:
        try:
            reader = _concatenate(parts, settings)
            break
        except FileNotFoundError:  # shards were merged since they were opened
            for store in stores:
                store.reopen()
    if settings.holds(reader.nbytes):
        return reader.resident(own_device() if settings.preload == "device" else "cpu")
    for store in stores:
        store.lease()
    reader.stores = stores  # the leases live as long as their reader
    return reader


def _concatenate(
    parts: Sequence[tuple[FeatureStore, Sequence[bytes | None]]], settings: FeaturesConfig
) -> FeatureReader:
    shards: list[Shard] = []
    rows: list[NDArray[np.int64]] = []  # (2, N) of each part: shard, entry
    for store, keys in parts:
        location = store.locate([key or bytes(KEY_BYTES) for key in keys])
        shard = np.where(location.found, location.shard + len(shards), -1)
        shards += store.shards
        own = np.stack([shard, location.entry])
        given = np.array([key is not None for key in keys])
        rows.append(np.where(given, own, rows[0]) if rows else own)
    dimensions = sorted({shard.dim for shard in shards})
    if len(dimensions) > 1:
        folders = ", ".join(str(store.folder) for store, _ in parts)
        raise UserError(f"expected features of one dimension in {folders}, got {dimensions}; remove the wrong ones")
    return FeatureReader.from_shards(shards, Location(*np.concatenate(rows, axis=1)), mapped=settings.mmap)


def _prefixes(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)
