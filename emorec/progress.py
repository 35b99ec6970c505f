"""A progress bar, shown only on a terminal."""

import sys
from typing import Any


class Progress:
    """A context manager that shows a progress bar.

    Args:
        title: text before the bar.
        total: count at the end.
        enabled: whether to show the bar if stderr is a terminal.
    """

    def __init__(self, title: str, total: int, enabled: bool = True) -> None:
        self.title, self.total = title, total
        self.enabled = enabled and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Advances the bar by `count`, with `note` behind it; by default the rate."""
        if self._bar is not None:
            speed = self._bar.tasks[0].speed
            text = note if note is not None else (f"{speed:.1f}/s" if speed else "")
            self._bar.update(self._task, advance=count, note=text)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
