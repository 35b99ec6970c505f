"""sha256 of values and of files; the digest of an unchanged file is read from a database."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from emorec.storage.atomic import follow_folder_mode, make_folder
from emorec.storage.regular_files import open_descriptor, open_regular, read_regular

BLOCK = 1 << 20  # bytes that are hashed at once
LARGEST_DATABASE = 1 << 28  # bytes: about a million files
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
SURROGATES = "surrogateescape"  # file names need not be UTF-8


def _with_plain_numbers(value: Any) -> Any:
    if value is None or isinstance(value, str):  # most values are: this is first for speed
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(key): _with_plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):  # a union would be made anew at each call
        return [_with_plain_numbers(item) for item in value]
    return value


def canonical_json(value: Any) -> str:
    """The canonical JSON of a value: sorted keys, no spaces, whole floats as integers (0.0 is 0).

    Raises:
        ValueError: the value contains NaN or an infinity.
        TypeError: the value contains a type that JSON does not support.
    """
    return ENCODER.encode(_with_plain_numbers(value))


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits.

    Raises:
        OSError: it is missing, cannot be read, is no regular file, or changes its size meanwhile.
    """
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        left = os.fstat(stream.fileno()).st_size
        while left and (block := stream.read(min(left, BLOCK))):
            digest.update(block)
            left -= len(block)
        if left or stream.read(1):  # a file that grows could be read for ever
            raise OSError(None, "the file changes its size while it is read", str(path))
    return digest.hexdigest()


class FileDigests:
    """Digests of files, stored by path, size, mtime, ctime and inode.

    The database is a text file to which processes append whole lines. Each line has a checksum, so that an incomplete
    line is skipped. The file can be deleted at any time.

    Args:
        database: the file; `None` keeps the digests in this process only.
        verify: hash each file once per process instead of reading the database.
    """

    def __init__(self, database: Path | None = None, *, verify: bool = False) -> None:
        self.database = database
        self._known: dict[tuple[str, ...], str] = {}
        self._unsaved: list[str] = []
        if database is not None and not verify:
            self._load(database)

    def digest(self, path: Path) -> str:
        """sha256 of the file at `path`.

        Raises:
            OSError: the file is missing, is no regular file, or cannot be read.
        """
        return self.derived("", path, hash_file)

    def derived(self, kind: str, path: Path, compute: Callable[[Path], str]) -> str:
        """A digest of some `kind`, a word, that `compute` derives from the content of the file at `path`."""
        status = os.stat(path)
        numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        identity = (kind + os.path.abspath(path), *map(str, numbers))
        if identity not in self._known:
            self._known[identity] = compute(path)
            if "\n" not in identity[0] and "\t" not in identity[0]:
                self._unsaved.append("\t".join((*identity, self._known[identity])))
        return self._known[identity]

    def digest_folder(self, folder: Path, suffixes: tuple[str, ...]) -> str:
        """sha256 over the names and contents of a folder's files with one of `suffixes`."""
        names = sorted(path.name for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
        return digest_of({name: self.digest(folder / name) for name in names})

    def save(self) -> None:
        """Appends the digests computed since the last call; a database that cannot be written is left as it is."""
        if self.database is None or not self._unsaved:
            return
        lines = "".join(f"{zlib.crc32(line.encode(errors=SURROGATES)):08x}\t{line}\n" for line in self._unsaved)
        with suppress(OSError):
            make_folder(self.database.parent)
            descriptor = open_descriptor(self.database, os.O_WRONLY | os.O_APPEND | os.O_CREAT, follow=False)
            with os.fdopen(descriptor, "ab") as stream:
                stream.write(lines.encode(errors=SURROGATES))
            follow_folder_mode(self.database)
            self._unsaved.clear()

    def _load(self, database: Path) -> None:
        try:
            text = read_regular(database, most=LARGEST_DATABASE, follow=False).decode(errors=SURROGATES)
        except OSError:
            return
        for line in text.split("\n"):
            checksum, _, rest = line.partition("\t")
            fields = rest.split("\t")
            if len(fields) == 6 and checksum == f"{zlib.crc32(rest.encode(errors=SURROGATES)):08x}":
                self._known[tuple(fields[:5])] = fields[5]
