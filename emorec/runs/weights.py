"""Files of weights: of one run, and in the store that runs link to."""

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.errors import UserError
from emorec.storage.regular_files import read_regular

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights"
SUFFIX = ".safetensors"
DOOMED = ".doomed"  # suffix of the mark of a weight file that a collection is about to remove
DOOMED_SECONDS = 10.0  # after which the collection counts as dead
MOST_BYTES = 2**40


def read_weights(folder: Path, weights: Mapping[str, str]) -> Iterator[tuple[str, Path, bytes]]:
    """(component, its file, content) of the weights {component: digest} of the finished run in a directory.

    Raises:
        UserError: a file is missing or does not match its digest.
    """
    for name, digest in weights.items():
        path = folder / "model" / f"{name}{SUFFIX}"
        try:
            content = read_regular(Path(os.path.realpath(path)), most=MOST_BYTES, follow=False)
        except OSError as error:
            raise UserError(f"expected weights in {path}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"expected weights of digest {digest} in {path}, got another: the file is damaged")
        yield name, path, content


def load_components(folder: Path, weights: Mapping[str, str]) -> "dict[str, dict[str, Tensor]]":
    """Loads {component: its weights} of {component: digest} of the finished run in a directory.

    Raises:
        UserError: a file is missing or does not match its digest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    components = {}
    for name, path, content in read_weights(folder, weights):
        try:
            components[name] = load(content)
        except SafetensorError as error:
            raise UserError(f"expected a safetensors file in {path}: {error}") from error
    return components


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
