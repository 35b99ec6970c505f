"""Keeping a feature store sound and small: verify, collect, compact."""

import logging
import re
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.features.inventory import inventory
from emorec.features.shard import NAME_DIGITS, SUFFIX, Shard, ShardError, open_shard, payload_digest, write_shard
from emorec.features.spec import FeatureSpec
from emorec.features.store import QUARANTINE_SUFFIX, FeatureStore, quarantine
from emorec.storage.atomic import keeping_time, remove_orphans
from emorec.storage.digests import FileDigests
from emorec.storage.leases import in_use, time_at

log = logging.getLogger(__name__)

FOLDER_NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{12}")
COMPACT_BYTES = 256 << 20  # of a shard that compaction makes
SMALL_BYTES = 64 << 20  # a shard below it is worth merging
MANY_SHARDS = 8


@dataclass
class Collection:
    """What a clean-up removed, or would remove.

    Attributes:
        removed: names.
        bytes: of what was removed.
        kept: how many were kept.
        in_use: names that would have gone if nobody used them.
    """

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    kept: int = 0
    in_use: list[str] = field(default_factory=list)


@dataclass
class Verification:
    """What a verification found.

    Attributes:
        checked: how many files.
        broken: {file: why}.
    """

    checked: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def spec_folders(root: Path) -> list[Path]:
    """The folders of specs in a cache; links and whatever else lies there are passed over."""
    if not root.is_dir():
        return []
    return sorted(
        path for path in root.iterdir() if FOLDER_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def verify(root: Path) -> Verification:
    """Hashes every shard again; a broken one is set aside, and its features are computed when they are next needed."""
    digests, found = FileDigests(), Verification()
    for folder in spec_folders(root):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            found.checked += 1
            try:
                if digests.digest(path)[:NAME_DIGITS] != path.stem:
                    raise ShardError("the content does not match its digest")
                shard = open_shard(path)
                if payload_digest(shard.values, shard.offsets, shard.keys) != shard.payload:
                    raise ShardError("the payload does not match its digest")
            except ShardError as error:
                quarantine(path, error)
                found.broken[f"{folder.name}/{path.name}"] = str(error)
            except FileNotFoundError:
                found.checked -= 1  # compacted in the meantime
            except OSError as error:
                found.broken[f"{folder.name}/{path.name}"] = str(error)
    return found


def collect(
    root: Path,
    *,
    older_than: float | None = None,
    used: set[str] | None = None,
    max_bytes: int | None = None,
    act: bool,
) -> Collection:
    """Removes the features of whole specs, and what broke or was left over; nothing in use, nothing outside the root.

    Args:
        root: the cache.
        older_than: seconds; only specs that were last used longer ago.
        used: only specs whose folder's name is not among these.
        max_bytes: only as many, longest unused first, as it takes to get the cache down to this size.
        act: false only tells what would go.
    """
    result = Collection()
    folders = {path.name: path for path in spec_folders(root)}
    entries = [entry for entry in inventory(root) if entry["folder"] in folders]
    total = sum(entry["bytes"] for entry in entries)
    now = time_at(root) if folders else 0.0
    for entry in sorted(entries, key=lambda item: float(item["last_use"])):
        name = entry["folder"]
        wanted = older_than is not None or used is not None or max_bytes is not None
        wanted &= older_than is None or now - entry["last_use"] > older_than
        wanted &= used is None or name not in used
        wanted &= max_bytes is None or total > max_bytes
        if wanted and _is_used(folders[name], now):
            result.in_use.append(name)
            wanted = False
        if not wanted:
            result.kept += 1
            continue
        result.removed.append(name)
        result.bytes += entry["bytes"]
        total -= entry["bytes"]
        if act:
            _remove(folders[name])
    if act and root.is_dir():
        _sweep_up(root)
    return result


def _is_used(folder: Path, now: float) -> bool:
    with keeping_time(folder):
        return in_use(folder, now)


def _remove(folder: Path) -> None:
    """Takes a folder out of sight in one step, then removes it; links in it are removed, not followed."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    folder.rename(aside)
    shutil.rmtree(aside)


def _sweep_up(root: Path) -> None:
    for folder in (root, *spec_folders(root)):
        with keeping_time(folder):
            remove_orphans(folder)
            for path in folder.glob(f"*{QUARANTINE_SUFFIX}"):
                path.unlink(missing_ok=True)


def compact(store: FeatureStore) -> int:
    """Merges small shards of a store into few; the caller holds the store's extraction claim.

    A reader that has opened the old shards keeps them; one that looks for them finds the new one.

    Returns:
        How many shards there are less than before.
    """
    small = [shard for shard in store.shards if _is_small(shard)]
    batches: list[list[Shard]] = [[]]
    size = 0
    for shard in small:
        if size > COMPACT_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(shard)
        size += shard.values.nbytes
    saved = sum(_merge(store, batch) for batch in batches)
    if saved:
        log.info("%s: %d small shards merged into %d", store.spec.folder_name, len(small), len(small) - saved)
    if not all(shard.path.exists() for shard in small):
        store.reopen()
    return saved


def _is_small(shard: Shard) -> bool:
    return shard.path.exists() and shard.path.stat().st_size < SMALL_BYTES


def _merge(store: FeatureStore, shards: list[Shard]) -> int:
    """Writes one shard in place of several and returns how many there are less; of equal keys the first counts."""
    for shard in shards:  # what rotted since it was opened must not get a digest of its own
        if payload_digest(shard.values, shard.offsets, shard.keys) != shard.payload:
            quarantine(shard.path, ShardError("the payload does not match its digest"))
            shards = [other for other in shards if other is not shard]
    if len(shards) < 2:
        return 0
    entries: dict[bytes, tuple[NDArray[Any], str | None]] = {}
    for shard in shards:
        for entry, key in enumerate(shard.keys):
            rows = np.asarray(shard.values[shard.offsets[entry] : shard.offsets[entry + 1]])
            entries.setdefault(key.tobytes(), (rows, shard.reasons.get(entry)))
    reasons = {place: reason for place, (_, reason) in enumerate(entries.values()) if reason is not None}
    merged = write_shard(store.folder, store.spec, list(entries), [rows for rows, _ in entries.values()], reasons)
    for shard in shards:
        if shard.path != merged:
            shard.path.unlink(missing_ok=True)
    return len(shards) - 1


def compact_if_many(store: FeatureStore) -> None:
    """Compacts a store that has gathered many small shards."""
    if sum(map(_is_small, store.shards)) > MANY_SHARDS:
        try:
            compact(store)
        except OSError as error:
            log.warning("the shards of %s are left as they are: %s", store.spec.folder_name, error)


def spec_of(folder: Path) -> FeatureSpec | None:
    """The spec that a folder's shards state; `None` where none of them can be read."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            return FeatureSpec(**open_shard(path).spec)
        except (ShardError, OSError, TypeError):
            continue
    return None
