"""Relative symbolic links that are replaced by renaming, so that a reader never finds none."""

import os
import shutil
import uuid
from pathlib import Path

from emorec.storage.atomic import make_folder, replacing, sync


def link_relative(target: Path, link: Path) -> bool:
    """Points `link` at `target` by a relative path, so that a moved tree still resolves.

    Returns:
        False where the filesystem refuses links and a copy was made in place of one.
    """
    make_folder(link.parent)
    temporary = link.parent / f".{link.name}.{uuid.uuid4().hex}.tmp"
    try:
        # resolved, for a relative path through a linked folder would lead elsewhere
        temporary.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    except OSError:
        with replacing(link) as copy:
            shutil.copyfile(target, copy)
        return False
    try:
        os.replace(temporary, link)
    finally:
        temporary.unlink(missing_ok=True)
    sync(link.parent)
    return True
