"""Maintenance of a feature cache: verify, collect."""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from emorec.features.inventory import inventory
from emorec.features.shard import QUARANTINE_SUFFIX, SUFFIX, ShardError, quarantine, read_header, verified_shard
from emorec.features.spec import SPEC_DIGITS, FeatureSpec
from emorec.storage.atomic import remove_orphans
from emorec.storage.digests import FileDigests
from emorec.storage.folders import keep_modification_time, list_folder, remove, remove_folder
from emorec.storage.leases import in_use, time_at

log = logging.getLogger(__name__)

WORKERS = "extractions"  # in a cache, the folder of what processes that share an extraction report and log
FOLDER_NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{12}")


@dataclass
class Collection:
    """The result of `collect`."""

    removed: list[str] = field(default_factory=list)  # names of the folders that were removed, or would be
    bytes: int = 0  # size of these folders
    kept: int = 0  # number of folders that were kept
    in_use: list[str] = field(default_factory=list)  # names of folders that were kept only because a process uses them


@dataclass
class Verification:
    """The result of `verify`."""

    checked: int = 0  # number of shards
    broken: dict[str, str] = field(default_factory=dict)  # {shard: reason}


def spec_folders(root: Path) -> list[Path]:
    """The folders of specs in a cache, without links and other content."""
    paths = [path for path in list_folder(root) if FOLDER_NAME.fullmatch(path.name)]
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def verify(root: Path) -> Verification:
    """Hashes all shards. A broken shard is quarantined, and its features are computed again when they are needed."""
    digests, result = FileDigests(), Verification()
    for folder in spec_folders(root):
        for path in list_folder(folder, f"*{SUFFIX}"):
            try:
                shard = verified_shard(path, digests)
                if not folder.name.endswith(shard.spec_digest[:SPEC_DIGITS]):
                    raise ShardError(f"expected features of the spec that {folder.name} is named by, got {shard.spec}")
            except FileNotFoundError:
                continue  # compacted in the meantime
            except (ShardError, OSError) as error:
                if isinstance(error, ShardError):
                    quarantine(path, error)
                result.broken[f"{folder.name}/{path.name}"] = str(error)
            result.checked += 1
    return result


def collect(
    root: Path,
    *,
    older_than: float | None = None,
    used: set[str] | None = None,
    max_bytes: int | None = None,
    act: bool,
) -> Collection:
    """Removes the features of whole specs, quarantined shards and temporary files. Features in use are kept.

    A spec is removed if it meets all given conditions; without any condition none is.

    Args:
        root: the cache.
        older_than: seconds since the last use.
        used: names of folders that are kept.
        max_bytes: size of the cache, down to which the least recently used specs are removed.
        act: false is a dry run.
    """
    result = Collection()
    folders = {path.name: path for path in spec_folders(root)}
    entries = [entry for entry in inventory(root) if entry["folder"] in folders]
    total = sum(entry["bytes"] for entry in entries)
    now = time_at(root) if folders else 0.0
    has_condition = any(condition is not None for condition in (older_than, used, max_bytes))
    for entry in sorted(entries, key=lambda item: float(item["last_use"])):
        name = entry["folder"]
        is_old = older_than is None or now - entry["last_use"] > older_than
        is_unused = used is None or name not in used
        if not (has_condition and is_old and is_unused and (max_bytes is None or total > max_bytes)):
            result.kept += 1
            continue
        try:
            if _is_used(folders[name], now):
                result.in_use.append(name)
                result.kept += 1
                continue
            if act:
                remove_folder(folders[name])
            result.removed.append(name)
            result.bytes += entry["bytes"]
        except FileNotFoundError:
            log.info("%s was removed by another process in the meantime", name)
        total -= entry["bytes"]
    if act:
        _remove_leftovers(root)
    return result


def _is_used(folder: Path, now: float) -> bool:
    with keep_modification_time(folder):
        return in_use(folder, now)


def _remove_leftovers(root: Path) -> None:
    """Removes old temporary files, logs of old extractions and quarantined shards."""
    remove_orphans(root / WORKERS, pattern="*")
    for folder in (root, *spec_folders(root)):
        with suppress(FileNotFoundError), keep_modification_time(folder):
            remove_orphans(folder)
            for path in list_folder(folder, f"*{QUARANTINE_SUFFIX}"):
                with suppress(FileNotFoundError):
                    remove(path)


def spec_of(folder: Path) -> FeatureSpec | None:
    """The spec in the headers of a folder's shards; `None` where no shard of the folder's spec can be read."""
    for path in list_folder(folder, f"*{SUFFIX}"):
        with suppress(ShardError, OSError, TypeError):  # a `TypeError` for a spec of another version of emorec
            spec = FeatureSpec(**read_header(path).spec)
            if spec.folder_name == folder.name:
                return spec
    return None
