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
        temporary.symlink_to(os.path.relpath(target, link.parent))
    except OSError:
        with replacing(link) as copy:
            shutil.copyfile(target, copy)
        return False
    os.replace(temporary, link)
    sync(link.parent)
    return True
