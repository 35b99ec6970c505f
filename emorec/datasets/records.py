"""The files that a corpus's authors offer, with sizes and digests: records of Zenodo, datasets of Hugging Face, and git
repositories of GitHub."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from emorec.config.schema import DownloadConfig
from emorec.datasets.transfer import read_address
from emorec.errors import UserError

LARGEST_RECORD = 1 << 26  # bytes
DIGESTS = {"md5": 32, "sha256": 64, "git": 40}  # hex digits
# GitHub serves small files, and those that git-lfs keeps elsewhere; its pointers are of this many bytes at most.
PLAIN, LARGE = "https://raw.githubusercontent.com", "https://media.githubusercontent.com/media"
LARGEST_POINTER = 140


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded."""

    name: str  # its path in the record
    address: str
    size: int | None  # bytes; `None` where the record does not say
    digest: str  # "md5:…", "sha256:…", or "git:…" for the id of a git object: the file's, or its git-lfs pointer's

    def __post_init__(self) -> None:
        kind, _, digits = self.digest.partition(":")
        if not re.fullmatch(rf"[0-9a-f]{{{DIGESTS.get(kind, 0)}}}", digits) or kind not in DIGESTS:
            raise ValueError(f"expected a digest among {tuple(DIGESTS)} of {self.name}, got {self.digest!r}")
        if self.size is not None and self.size < 0:
            raise ValueError(f"expected a size of {self.name}, got {self.size}")
        path = PurePosixPath(self.name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in self.name:
            raise ValueError(f"expected a path within the corpus, got {self.name!r}")


def read_record(address: str, path: str, limits: DownloadConfig) -> list[RemoteFile]:
    """The files of a record that a path names: a file, or all files of a folder.

    Args:
        address: `…/api/records/<number>` of Zenodo, `…/api/datasets/<name>/tree/<revision>` of Hugging Face, or
            `…/repos/<name>/git/trees/<revision>` of GitHub.
        path: in the record.
        limits: of the transfer.

    Raises:
        UserError: the record cannot be read, or has no such file.
    """
    try:
        record = _json(address, limits)
        if isinstance(record, list):
            files = _of_hugging_face(address, record)
        elif "tree" in record:
            files = _of_github(address, record, path, limits)
        else:
            files = _of_zenodo(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"expected a record's description at {address}, got {error!r}") from error
    chosen = [item for item in files if item.name == path or item.name.startswith(f"{path}/")]
    if not chosen:
        raise UserError(f"expected {path!r} in the record {address}, got {sorted(item.name for item in files)[:20]}")
    return chosen


def _json(address: str, limits: DownloadConfig) -> Any:
    return json.loads(read_address(address, LARGEST_RECORD, limits))


def _of_zenodo(record: Mapping[str, Any]) -> list[RemoteFile]:
    return [
        RemoteFile(str(item["key"]), str(item["links"]["self"]), int(item["size"]), str(item["checksum"]))
        for item in record["files"]
    ]


def _of_hugging_face(address: str, entries: list[Any]) -> list[RemoteFile]:
    base, _, revision = address.replace("/api/datasets/", "/datasets/").partition("/tree/")
    return [
        RemoteFile(
            name=str(item["path"]),
            address=f"{base}/resolve/{revision}/{quote(str(item['path']))}",
            size=int(item["size"]),
            digest=f"sha256:{item['lfs']['oid']}" if "lfs" in item else f"git:{item['oid']}",
        )
        for item in entries
        if item["type"] == "file"
    ]


def _of_github(address: str, record: Mapping[str, Any], path: str, limits: DownloadConfig) -> list[RemoteFile]:
    """The files in the folder that holds the first part of `path`, which is looked up folder by folder."""
    repository, _, revision = address.partition("/repos/")[2].partition("/git/trees/")
    folder = PurePosixPath()
    for part in PurePosixPath(path).parts:
        below = [item for item in record["tree"] if item["path"] == part and item["type"] == "tree"]
        if not below:
            break
        record, folder = _json(str(below[0]["url"]), limits), folder / part
    if record.get("truncated"):
        raise ValueError(f"a list of {folder} that is not complete")
    files = []
    for item in record["tree"]:
        name, is_pointer = str(folder / item["path"]), int(item.get("size", 0)) <= LARGEST_POINTER
        if item["type"] == "blob":
            base = f"{LARGE if is_pointer else PLAIN}/{repository}/{revision}"
            size = None if is_pointer else int(item["size"])
            files.append(RemoteFile(name, f"{base}/{quote(name)}", size, f"git:{item['sha']}"))
    return files
