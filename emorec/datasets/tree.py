"""Lists the files of a corpus, whatever links lead through it."""

import os
from collections import deque
from pathlib import Path

from emorec.errors import UserError

MOST_FILES = 2_000_000


def files_below(folder: Path) -> list[Path]:
    """The sorted files below a folder, linked folders included.

    A folder or file that links lead to as well is listed once, under its own path where it has one below `folder`.
    Hidden folders, and links to a folder around `folder`, are passed over.

    Raises:
        UserError: there are more than `MOST_FILES`.
    """
    files: list[Path] = []
    linked_files: list[Path] = []
    folders, linked_folders = deque([folder]), deque[Path]()
    visited: set[tuple[int, int]] = set()
    around = {_identity(parent) for parent in folder.resolve().parents}
    while folders or linked_folders:
        current = (folders or linked_folders).popleft()
        identity = _identity(current)
        if identity is None or identity in visited or identity in around:
            continue
        visited.add(identity)
        for entry in _entries(current):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                folders += [] if entry.name.startswith(".") else [path]
            elif not entry.is_symlink():
                files.append(path)
            elif _is_folder(path):
                linked_folders += [] if entry.name.startswith(".") else [path]
            else:
                linked_files.append(path)
        if len(files) + len(linked_files) > MOST_FILES:
            raise UserError(f"expected at most {MOST_FILES} files below {folder}, found more; name a smaller folder")
    if linked_files:
        base = folder.resolve()
        own = {str(base / path.relative_to(folder)) for path in files}.intersection(map(os.path.realpath, files))
        files += [path for path in linked_files if os.path.realpath(path) not in own]
    return sorted(files)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # it has vanished, or may not be looked at
        return None
    return status.st_dev, status.st_ino


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []
