"""A progress bar, shown only on a terminal."""

import sys
from typing import Any


class Progress:
    """A context manager that shows a bar from 0 to `total` behind a title, if enabled and stderr is a terminal."""

    def __init__(self, title: str, total: int, enabled: bool = True) -> None:
        self.title, self.total = title, total
        self.done = 0
        self.enabled = enabled and sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), "{task.fields[note]}", TimeRemainingColumn())
            self._bar = Bar("{task.description}", *columns, console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.title, total=self.total, note="")
        return self

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Advances the bar by `count`, with `note` behind it; by default the rate."""
        self.done += count
        if self._bar is not None:
            task = self._bar.tasks[0]
            rate = f"{task.speed:.1f}/s" if task.speed else ""
            self._bar.update(task.id, advance=count, note=rate if note is None else note)

    def reach(self, done: int) -> None:
        """Advances the bar to `done`, if it is not there yet."""
        if done > self.done:
            self.advance(done - self.done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
