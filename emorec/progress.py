"""A progress bar with a rate on a terminal, and nothing elsewhere."""

import sys
from typing import Any


class Progress:
    """Counts up to `total` while its block runs.

    Args:
        title: stands before the bar.
        total: the count at the end.
        enabled: false for no bar; there is none either where stderr is no terminal.
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
        """Counts on; `note` stands behind the count, the rate if it is not given."""
        if self._bar is not None:
            speed = self._bar.tasks[0].speed
            text = note if note is not None else (f"{speed:.1f}/s" if speed else "")
            self._bar.update(self._task, advance=count, note=text)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
