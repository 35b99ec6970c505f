"""A measured figure, and how two sides are measured fairly."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured figure: it holds where it is on the right side of its goal.

    Attributes:
        name: of the benchmark.
        value: measured; `None` where it could not be.
        unit: such as "ratio", "s", "files".
        goal: such as "<= 1.2"; "" for a figure that only informs.
        note: what else was measured, or why it was not.
    """

    name: str
    value: float | None
    unit: str
    goal: str
    note: str = ""

    @property
    def holds(self) -> bool | None:
        if self.value is None or not self.goal:
            return None
        relation, bound = self.goal.split()
        return self.value <= float(bound) if relation == "<=" else self.value >= float(bound)

    def line(self) -> str:
        value = "skipped" if self.value is None else f"{self.value:.3f}"
        verdict = {True: "holds", False: "MISSED", None: ""}[self.holds]
        goal = f"goal {self.goal}" if self.goal else ""
        return f"{self.name:<28}{value:>10} {self.unit:<8} {goal:<14} {verdict:<8}{self.note}"


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rounds_of(*sides: Callable[[], float], rounds: int) -> list[tuple[float, ...]]:
    """Each round's measurements, taken in turn, after a round that does not count."""
    return [tuple(side() for side in sides) for _ in range(rounds + 1)][1:]


def interleaved(*sides: Callable[[], float], rounds: int) -> tuple[float, ...]:
    """The median of each measurement over some rounds."""
    return tuple(statistics.median(values) for values in zip(*rounds_of(*sides, rounds=rounds), strict=True))


def machine() -> str:
    """The machine, in a line."""
    import torch

    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=False).stdout.strip()
    return f"{platform.machine()}, {cores} cores, torch {torch.__version__} with {torch.get_num_threads()} threads"


def write(figures: list[Figure], path: Path) -> None:
    """Writes figures as a list of {name, value, unit, goal, holds}."""
    rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
    path.write_text(json.dumps(rows, indent=2) + "\n")


def emorec(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs `python -m emorec …` to its end.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "emorec", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"emorec {' '.join(words)}: {done.stderr}")
    return done  # type: ignore[no-any-return]
