"""The folder of an export: it appears whole, with the digest of each of its files."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emorec.errors import UserError
from emorec.storage.atomic import make_folder, share, sync_tree
from emorec.storage.digests import hash_file
from emorec.storage.folders import list_tree, temporary_path

DIGESTS = "sha256.txt"  # as `sha256sum --check` reads it


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target`, which is renamed to it after the block.

    Raises:
        UserError: there is something at `target`.
    """
    require_new(target)
    make_folder(target.parent)
    draft = temporary_path(target)
    try:
        draft.mkdir()
        yield draft
        files = [path for path in list_tree(draft) if path.is_file()]
        lines = [f"{hash_file(path)}  {path.relative_to(draft).as_posix()}" for path in files]
        (draft / DIGESTS).write_text("\n".join(lines) + "\n")
        share(draft)
        sync_tree(draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_new(target: Path) -> None:
    """Raises a `UserError` where there is something at a path."""
    if os.path.lexists(target):
        raise UserError(f"to: expected a new folder, got {target}, which exists")
