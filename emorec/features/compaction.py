"""Merges small shards into larger ones."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.features.maintenance import spec_folders, spec_of
from emorec.features.shard import Shard, ShardError, quarantine, write_shard
from emorec.features.store import CLAIM, FeatureStore
from emorec.storage.claims import STALE_SECONDS, claimed
from emorec.storage.digests import FileDigests
from emorec.storage.folders import keep_modification_time

log = logging.getLogger(__name__)

COMPACT_BYTES = 256 << 20  # size of a merged shard
SMALL_BYTES = 64 << 20  # smaller shards are merged
MANY_SHARDS = 8


def compact(store: FeatureStore) -> int:
    """Merges small shards of a store. The caller holds the extraction claim of the store.

    Readers that have the old shards open keep reading them; others open the merged one.

    Returns:
        The number of shards saved.
    """
    small = [shard for shard in store.shards if _is_small(shard)]
    batches: list[list[Shard]] = [[]]
    for shard in small:
        if sum(merged.values.nbytes for merged in batches[-1]) > COMPACT_BYTES:
            batches.append([])
        batches[-1].append(shard)
    saved = sum(_merge(store, batch) for batch in batches)
    if saved:
        log.info("%s: %d small shards merged into %d", store.spec.folder_name, len(small), len(small) - saved)
    if not all(shard.path.exists() for shard in small):
        store.reopen()
    return saved


def _is_small(shard: Shard) -> bool:
    try:
        return shard.path.stat().st_size < SMALL_BYTES
    except FileNotFoundError:
        return False  # compacted in the meantime


def _merge(store: FeatureStore, shards: list[Shard]) -> int:
    """Merges shards into one and returns the number of shards saved. Of equal keys the first is kept."""
    for shard in shards:  # corrupted data must not get a new, valid digest
        try:
            shard.check_payload()
        except ShardError as error:
            quarantine(shard.path, error)
            shards = [other for other in shards if other is not shard]
    if len(shards) < 2:
        return 0
    entries: dict[bytes, tuple[NDArray[Any], str | None]] = {}
    for shard in shards:
        for entry, key in enumerate(shard.keys):
            rows = np.asarray(shard.values[shard.offsets[entry] : shard.offsets[entry + 1]])
            entries.setdefault(key.tobytes(), (rows, shard.reasons.get(entry)))
    reasons = {index: reason for index, (_, reason) in enumerate(entries.values()) if reason is not None}
    merged = write_shard(store.folder, store.spec, list(entries), [rows for rows, _ in entries.values()], reasons)
    for shard in shards:
        if shard.path != merged:
            shard.path.unlink(missing_ok=True)
    return len(shards) - 1


def compact_if_many(store: FeatureStore, *, stale_after: float = STALE_SECONDS) -> None:
    """Compacts a store with many small shards under its claim."""
    if sum(map(_is_small, store.shards)) > MANY_SHARDS:
        try:
            compact_claimed(store, stale_after=stale_after)
        except OSError as error:
            log.warning("the shards of %s were not merged: %s", store.spec.folder_name, error)


def compact_claimed(store: FeatureStore, *, stale_after: float = STALE_SECONDS) -> int:
    """Compacts a store under its claim and returns the number of shards saved."""
    with claimed(store.folder / CLAIM, stale_after=stale_after):
        store.refresh()
        return compact(store)


def compact_all(cache: Path) -> dict[str, int]:
    """Compacts all stores of a cache: {folder: number of shards saved}."""
    digests = FileDigests(cache / "digests.tsv")
    saved = {}
    for folder in spec_folders(cache):
        spec = spec_of(folder)
        if spec is not None:
            with suppress(FileNotFoundError), keep_modification_time(folder):  # it may be collected in the meantime
                saved[folder.name] = compact_claimed(FeatureStore(cache, spec, digests))
    digests.save()
    return saved
