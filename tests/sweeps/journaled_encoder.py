"""An encoder of a lab's own that says what it computes, for extractions by several processes."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.encoders.encoder import UtteranceEncoder
from emorec.media.source import Source
from tests.faults.conftest import append_line, noise


@dataclass(kw_only=True, eq=False)
class Journaled(UtteranceEncoder):
    """Noise that depends on the text only.

    Args:
        journal: file with a line for each computed text: the process and the text.
        pause: seconds for each text.
        together: how many processes wait for each other before their second text.
        fault: "raise" fails, "overflow" returns what cannot be stored, "kill" kills the first process that gets so far.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    journal: str
    pause: float = 0.02
    together: int = 1
    fault: str = "none"

    @property
    def dim(self) -> int:
        return 8

    def settings(self) -> dict[str, Any]:
        return {"processor": {}}

    def features(self, source: Source) -> NDArray[np.float32]:
        assert source.text is not None
        append_line(Path(self.journal), f"{os.getpid()} {source.text}")
        self._meet()
        time.sleep(self.pause)
        rows = noise(source.text.encode(), 8)
        if self.fault == "raise":
            raise ValueError("boom")
        if self.fault == "kill":
            self._kill_once()
        return rows * np.float32(1e9) if self.fault == "overflow" else rows

    def _meet(self) -> None:
        """Waits until as many processes as shall work together have begun."""
        deadline = time.monotonic() + 300
        while len({line.split()[0] for line in Path(self.journal).read_text().splitlines()}) < self.together:
            assert time.monotonic() < deadline, "the other processes do not begin"
            time.sleep(0.02)

    def _kill_once(self) -> None:
        """Kills this process in the middle of its work, if it is the first that comes here."""
        lines = Path(self.journal).read_text().splitlines()
        if sum(line.startswith(f"{os.getpid()} ") for line in lines) > 20:
            try:
                Path(f"{self.journal}.killed").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)
