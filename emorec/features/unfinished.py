"""Decodings that were not finished, of which processes that share an extraction tell each other.

A clip that takes too long is tried again the next time, but not by each of the processes that work at this time. The
file has a line for each clip: the time at which it was given up, its key, and why.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from emorec.storage.atomic import follow_folder_mode
from emorec.storage.regular_files import open_descriptor, read_regular

NAME = "unfinished.tsv"
LARGEST = 1 << 24  # bytes


class Unfinished:
    """Sources whose decoding was not finished since some time.

    Attributes:
        reasons: {key: why}, as of the last `refresh`.

    Args:
        folder: of a store.
        since: seconds since the epoch.
    """

    def __init__(self, folder: Path, since: float) -> None:
        self.path, self.since = folder / NAME, since
        self.reasons: dict[bytes, str] = {}

    def refresh(self) -> None:
        """Reads what other processes have added. A line that is no such line is skipped."""
        with suppress(OSError):
            for line in read_regular(self.path, most=LARGEST, follow=False).decode(errors="replace").splitlines():
                with suppress(ValueError):
                    moment, key, reason = line.split("\t")
                    if float(moment) >= self.since:
                        self.reasons.setdefault(bytes.fromhex(key), reason)

    def add(self, reasons: Mapping[bytes, str]) -> None:
        """Adds those of {key: reason} that are new; a folder that cannot be written keeps none for the others."""
        new = {key: " ".join(reason.split()) for key, reason in reasons.items() if key not in self.reasons}
        self.reasons |= new
        if not new:
            return
        lines = "".join(f"{time.time()}\t{key.hex()}\t{reason}\n" for key, reason in new.items())
        with suppress(OSError):
            descriptor = open_descriptor(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, follow=False)
            with os.fdopen(descriptor, "ab") as stream:
                stream.write(lines.encode())
            follow_folder_mode(self.path)
