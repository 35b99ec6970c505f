"""What a cache holds, read from the shards themselves."""

from pathlib import Path
from typing import Any

from emorec.features.shard import SUFFIX, ShardError, read_header


def inventory(root: Path) -> list[dict[str, Any]]:
    """One entry a spec: folder, encoder, checkpoint, revision, utterances, bad, shards, broken, bytes, last_use."""
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        entry: dict[str, Any] = {"folder": folder.name, "encoder": None, "checkpoint": None, "revision": None}
        entry |= {"utterances": 0, "bad": 0, "shards": 0, "broken": 0, "bytes": 0}
        paths = sorted(folder.glob(f"*{SUFFIX}"))
        for path in paths:
            try:
                header, about, _ = read_header(path)
                entry |= {key: about["spec"][key] for key in ("encoder", "checkpoint", "revision")}
                entry["utterances"] += header["keys"]["shape"][0]
                entry["bad"] += len(about["reasons"])
                entry["shards"] += 1
                entry["bytes"] += path.stat().st_size
            except (ShardError, OSError, KeyError):
                entry["broken"] += 1
        if paths:
            found.append({**entry, "last_use": folder.stat().st_mtime})
    return found
