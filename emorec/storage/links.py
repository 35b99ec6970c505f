"""Relative symbolic links, replaced atomically, so that a reader always finds a target."""

import os
import shutil
from pathlib import Path

from emorec.storage.atomic import make_folder, replacing, sync
from emorec.storage.folders import temporary_path


def link_relative(target: Path, link: Path) -> bool:
    """Points `link` at `target` by a relative path, so that the link works in a moved tree.

    Returns false where the filesystem does not support links and a copy was made instead.
    """
    make_folder(link.parent)
    temporary = temporary_path(link)
    try:
        # resolved, since a relative path through a linked folder would lead elsewhere
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
