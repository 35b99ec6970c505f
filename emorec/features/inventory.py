"""The content of a cache, read from the shards themselves."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from emorec.features.shard import SUFFIX, ShardError, read_header
from emorec.storage.folders import list_folder


def inventory(root: Path) -> list[dict[str, Any]]:
    """One entry per spec: folder, encoder, checkpoint, revision, utterances, bad, shards, broken, bytes, last_use.

    Shards and folders that another process removes in the meantime are skipped.
    """
    entries = []
    for folder in list_folder(root):
        entry: dict[str, Any] = {"folder": folder.name, "encoder": None, "checkpoint": None, "revision": None}
        entry |= dict.fromkeys(("utterances", "bad", "shards", "broken", "bytes"), 0)
        for path in list_folder(folder, f"*{SUFFIX}"):
            _add_shard(entry, path)
        if entry["shards"] or entry["broken"]:
            with suppress(FileNotFoundError):  # collected in the meantime
                entries.append({**entry, "last_use": folder.stat().st_mtime})
    return entries


def _add_shard(entry: dict[str, Any], path: Path) -> None:
    """Adds a shard to the entry of its spec."""
    try:
        header, size = read_header(path), path.stat().st_size
    except FileNotFoundError:
        entry["broken"] += path.is_symlink()  # a link without a target; other files were compacted or collected
        return
    except (ShardError, OSError):
        entry["broken"] += 1
        return
    entry |= {key: header.spec.get(key) for key in ("encoder", "checkpoint", "revision")}
    entry["utterances"] += header.entries
    entry["bad"] += len(header.reasons)
    entry["shards"] += 1
    entry["bytes"] += size
