"""Signals that ask a run to end soon: it saves at the end of its step, and resumes when it is started again."""

import signal
import threading
from types import FrameType
from typing import Any, ClassVar

from emorec.errors import Preempted

# SIGTERM from schedulers and service managers, SIGUSR1 from Slurm's --signal, SIGUSR2 from submitit.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def ignore_signals() -> None:
    """For a process that has done its work."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Preemption:
    """While its block runs, a signal raises `Preempted`; while `deferred` is set, it only sets `received`.

    Blocks may be nested: an exception that was lost, for example in a finaliser, is raised by the next inner block.
    Only the main thread of a process receives signals; in another thread the block does nothing.
    """

    _innermost: ClassVar["Preemption | None"] = None

    def __init__(self) -> None:
        self._outer: Preemption | None = None
        self.received: signal.Signals | None = None
        self.deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._outer = Preemption._innermost
            if self._outer is not None and self._outer.received is not None:
                raise self._outer.error()
            Preemption._innermost = self
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def install(self) -> None:
        """Handles the signals, also after a library has installed handlers of its own."""
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if Preemption._innermost is self:
            Preemption._innermost = self._outer

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self.deferred:
            raise self.error()

    def error(self) -> Preempted:
        """The exception to raise after a signal."""
        return Preempted(f"stopped by {self.received.name if self.received else 'another rank'}")
