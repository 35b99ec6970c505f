"""Signals that stop a sweep."""

import signal
import threading
from types import FrameType
from typing import Any

from emorec.errors import Preempted
from emorec.training import preemption

SIGNALS = (signal.SIGINT, signal.SIGHUP, *preemption.SIGNALS)


class Stop:
    """A context manager that counts the signals which would end this process.

    Attributes:
        raises: whether each signal also raises a `KeyboardInterrupt`; false for callers that check `count`.
        count: number of signals received.
        received: the first signal.
    """

    def __init__(self) -> None:
        self.raises = True
        self.count = 0
        self.received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """75 after a preemption signal, else 128 + the signal's number, as of a shell."""
        return Preempted.exit_code if self.received in preemption.SIGNALS else 128 + (self.received or 0)

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                    self._handlers[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _count(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.received = self.received or signal.Signals(number)
        if self.raises:
            raise KeyboardInterrupt
