"""The store of one feature: a folder of immutable shards, and the index of what is in them."""

import logging
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emorec.features.reader import FeatureReader, Location, ReadSettings
from emorec.features.shard import KEY_BYTES, NAME_DIGITS, SUFFIX, Shard, ShardError, open_shard, write_shard
from emorec.features.spec import FeatureSpec
from emorec.storage.claims import Claim
from emorec.storage.digests import FileDigests, canonical_json
from emorec.storage.leases import take_lease

log = logging.getLogger(__name__)

QUARANTINE_SUFFIX = ".bad"


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
        self._lease: Claim | None = None
        self._known: set[str] = set()
        self._prefixes: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._keys: NDArray[np.uint8] = np.zeros((0, KEY_BYTES), np.uint8)
        self._places: NDArray[np.int64] = np.zeros((0, 2), np.int64)  # (shard, entry)
        self.refresh()

    def refresh(self) -> None:
        """Opens shards that have come since the last look. One that is broken or unreadable is named and left out."""
        fresh = found = False
        while not found:  # a shard that vanished between listing and opening was merged into another: look again
            found = True
            names = sorted(path.name for path in self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
            for name in names:
                if name in self._known:
                    continue
                try:
                    shard = self._opened(self.folder / name)
                except FileNotFoundError:
                    if (self.folder / name).is_symlink():  # to nothing, and it will stay so
                        self._known.add(name)
                    else:
                        found = False
                    continue
                self._known.add(name)
                if shard is not None:
                    self.shards.append(shard)
                    fresh = True
        if fresh:
            self._index()
        if self.shards:
            with suppress(OSError):  # a read-only store keeps no time of last use
                os.utime(self.folder)

    def reopen(self) -> None:
        """Forgets all shards and opens what is there now."""
        self.shards, self._known = [], set()
        self._index()
        self.refresh()

    def _opened(self, path: Path) -> Shard | None:
        """The shard; `None` where it is broken or may not be read. Raises FileNotFoundError where it has vanished."""
        try:
            if self.digests.digest(path)[:NAME_DIGITS] != path.stem:
                raise ShardError("the content does not match its digest")
            shard = open_shard(path)
            if canonical_json(shard.spec) != self.spec.canonical:
                raise ShardError(f"expected features of {self.spec.canonical}, found {shard.spec}")
        except ShardError as error:
            quarantine(path, error)
            return None
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("the shard %s cannot be read and counts as absent: %s", path, error)
            return None
        return shard

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

    def reader(self, keys: Sequence[bytes | None], settings: ReadSettings) -> FeatureReader:
        """A reader whose place n holds the features of `keys[n]`; `None`, or a key without features, is absent."""
        return open_reader([(self, keys)], settings)

    def lease(self) -> None:
        """Keeps clean-ups away while features are mapped; ends with this object."""
        if self._lease is None and self.shards:
            self._lease = take_lease(self.folder)
            if self._lease is not None:
                weakref.finalize(self, self._lease.release)


def open_reader(parts: Sequence[tuple[FeatureStore, Sequence[bytes | None]]], settings: ReadSettings) -> FeatureReader:
    """One reader over the keys of several stores, one part after the other; `None` in a later part stands for what is
    at the same place in the first.

    Args:
        parts: stores of features of one width, each with its keys; all lists are of one length.
        settings: how features are read.
    """
    stores = [store for store, _ in parts]
    try:
        reader = _joined(parts, settings)
    except FileNotFoundError:  # shards were merged since they were opened
        for store in stores:
            store.reopen()
        reader = _joined(parts, settings)
    if settings.holds(reader.nbytes):
        return reader.resident(settings.device)
    for store in stores:
        store.lease()
    reader.stores = stores  # the leases live as long as their reader
    return reader


def _joined(parts: Sequence[tuple[FeatureStore, Sequence[bytes | None]]], settings: ReadSettings) -> FeatureReader:
    shards: list[Shard] = []
    found: list[Location] = []
    for store, keys in parts:
        location = store.locate([key or bytes(KEY_BYTES) for key in keys])
        shard = np.where(location.found, location.shard + len(shards), -1)
        shards += store.shards
        if found:
            taken = np.array([key is not None for key in keys])
            first = found[0]
            location = Location(np.where(taken, shard, first.shard), np.where(taken, location.entry, first.entry))
        else:
            location = Location(shard, location.entry)
        found.append(location)
    whole = Location(np.concatenate([item.shard for item in found]), np.concatenate([item.entry for item in found]))
    return FeatureReader(shards, whole, mapped=settings.mmap)


def _prefixes(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)


def quarantine(path: Path, error: Exception) -> None:
    """Sets a broken shard aside, where no reader looks."""
    log.warning("the shard %s is broken and is set aside; its features are computed anew: %s", path, error)
    with suppress(OSError):
        path.rename(path.with_name(path.name + QUARANTINE_SUFFIX))
