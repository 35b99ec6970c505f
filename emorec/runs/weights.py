"""Files of weights: of one run, and in the store that runs link to."""

import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.errors import UserError
from emorec.storage.atomic import replacing
from emorec.storage.digests import hash_file
from emorec.storage.folders import check_real_folder, list_folder
from emorec.storage.links import link_relative
from emorec.storage.regular_files import read_regular

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

WEIGHTS = "weights"
SUFFIX = ".safetensors"
DOOMED = ".doomed"  # suffix of the mark of a weight file that a collection is about to remove
DOOMED_SECONDS = 10.0  # after which the collection counts as dead
MOST_BYTES = 2**40
FILE_FOLDERS = ("adapter", "backbone")  # of a run, with a folder for each modality


def weight_folders(folder: Path) -> list[Path]:
    """The folders in a run's directory that hold links to weights."""
    return [folder / "model", *(path for name in FILE_FOLDERS for path in list_folder(folder / name))]


def read_weights(path: Path, digest: str) -> bytes:
    """The content of a file of weights of a finished run.

    Raises:
        UserError: it is missing or does not match its digest.
    """
    try:
        content = read_regular(Path(os.path.realpath(path)), most=MOST_BYTES, follow=False)
    except OSError as error:
        raise UserError(f"expected weights in {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"expected weights of digest {digest} in {path}, got another: the file is damaged")
    return content


def load_components(folder: Path, weights: Mapping[str, str]) -> "dict[str, dict[str, Tensor]]":
    """Loads {component: its weights} of {component: digest} of the finished run in a directory.

    Raises:
        UserError: a file is missing or does not match its digest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    components = {}
    for name, digest in weights.items():
        path = folder / "model" / f"{name}{SUFFIX}"
        try:
            components[name] = load(read_weights(path, digest))
        except SafetensorError as error:
            raise UserError(f"expected a safetensors file in {path}: {error}") from error
    return components


def publish_folder(root: Path, folder: Path, files: Mapping[str, bytes | Path]) -> dict[str, str]:
    """Writes {name: content, or a file to copy} into a folder of a run, and removes what else is there.

    Weights are stored by content in the store at `root` and linked. Returns {name: sha256}.
    """
    for path in (folder.parent, folder, root / WEIGHTS):
        check_real_folder(path)
    digests = {
        name: store_weights(root, content, folder / name)
        if name.endswith(SUFFIX)
        else write_copy(content, folder / name)
        for name, content in files.items()
    }
    for old in list_folder(folder):
        if old.name not in files and not old.name.startswith("."):
            old.unlink(missing_ok=True)
    return digests


def store_weights(root: Path, content: bytes | Path, link: Path) -> str:
    """Stores weights, or a copy of a file of weights, by their sha256 in a store, links them and returns it."""
    if isinstance(content, bytes):
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
    else:
        digest, size = hash_file(content), content.stat().st_size
    blob = root / WEIGHTS / f"{digest}{SUFFIX}"
    while True:
        if not keep(blob, size):
            write_copy(content, blob)
        if not link_relative(blob, link):
            log.warning("%s does not support links: copied the weights of %s", root, link.stem)
        wait_for_collection(blob)
        if link.exists():
            return digest


def write_copy(content: bytes | Path, path: Path) -> str:
    """Writes a content, or a copy of a file, to a path; returns its sha256."""
    with replacing(path) as temporary:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            shutil.copyfile(content, temporary)
        return hash_file(temporary)


def keep(blob: Path, size: int) -> bool:
    """Touches a weight file, so that a collection at the same time keeps it; false where there is none of that size."""
    with suppress(FileNotFoundError, PermissionError):  # another user's, in a store that the group cannot write
        status = blob.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == size:
            os.utime(blob)
            return True
    return False


def wait_for_collection(blob: Path) -> None:
    """Waits while a collection is about to remove a weight file."""
    mark = blob.with_name(blob.name + DOOMED)
    end = time.monotonic() + DOOMED_SECONDS
    while mark.exists():
        if time.monotonic() > end:
            mark.unlink(missing_ok=True)
        time.sleep(0.001)
