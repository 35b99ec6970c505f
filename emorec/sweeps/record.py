"""What became of each job of a multirun: `sweeps/<name>/sweep.json`, kept while it runs."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from emorec.errors import UserError
from emorec.storage.atomic import make_folder, write_json
from emorec.storage.claims import Claim, Holder, acquire, read_holder
from emorec.storage.folders import list_folder
from emorec.storage.leases import is_live

log = logging.getLogger(__name__)

RECORD = "sweep.json"
CLAIM = "sweep.claim"  # in the folder of a sweep that somebody runs
FAILED = ("failed", "invalid")
ENDED = ("finished", "skipped", "interrupted", *FAILED)


def moment() -> str:
    """The time with its zone, to the millisecond."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


@dataclass
class JobRecord:
    """One job.

    Attributes:
        number: from 1.
        overrides: of this job.
        status: "waiting", "running"; then "finished", "skipped" (somebody else runs it), "interrupted" (the same
            command goes on with it), "failed", or "invalid" (it was never started).
        run_id: once it is known.
        started: when its process was started, `None` where none was: it was finished, invalid, or another job's run.
        ended: when it ended.
        seconds: how long it took.
        metrics: {name: value} that the table shows.
        exit_code: of its process; negative for the signal that killed it.
        error: why it failed.
        log: what its process said, a path from the sweep's folder.
        same_as: number of the earlier job that has the same run.
    """

    number: int
    overrides: list[str]
    status: str = "waiting"
    run_id: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    exit_code: int | None = None
    error: str | None = None
    log: str | None = None
    same_as: int | None = None

    def start(self) -> None:
        """Marks it as running from now."""
        self.status, self.started, self.ended = "running", moment(), None

    def end(self, status: str, error: str | None = None) -> None:
        """Marks it as ended now."""
        self.status, self.error, self.ended = status, error, moment()
        self.seconds = self.elapsed()

    def elapsed(self) -> float:
        """Seconds since its start, until its end or now."""
        if self.started is None:
            return 0.0
        end = time.time() if self.ended is None else datetime.fromisoformat(self.ended).timestamp()
        return round(max(0.0, end - datetime.fromisoformat(self.started).timestamp()), 3)

    def recall(self, earlier: "JobRecord") -> None:
        """Goes on from what an earlier start of the sweep knew of this job; what has no result waits again."""
        self.number, self.log = earlier.number, earlier.log
        if self.status == "waiting" and earlier.status == "finished":
            for name in ("status", "run_id", "started", "ended", "seconds", "metrics", "exit_code"):
                setattr(self, name, getattr(earlier, name))

    def take_over(self, other: "JobRecord") -> None:
        """Takes over what became of the job that has the same run."""
        self.status, self.run_id, self.metrics, self.error = other.status, other.run_id, other.metrics, other.error
        self.same_as = other.number


@dataclass
class SweepRecord:
    """A multirun.

    Attributes:
        folder: `checkpoints/sweeps/<name>`.
        name: of the sweep.
        launcher: name of the launcher.
        jobs: those of this start.
        others: those of earlier starts under this name that this one does not ask for.
        started: when.
        ended: when; `None` while it runs, or where it was killed.
    """

    folder: Path
    name: str
    launcher: str
    jobs: list[JobRecord]
    others: list[JobRecord] = field(default_factory=list)
    started: str = field(default_factory=moment)
    ended: str | None = None

    def claim(self, stale_after: float) -> Claim:
        """Makes the folder this process's.

        Args:
            stale_after: seconds without a sign of life after which a sweep on another host is taken to be dead.

        Raises:
            UserError: a sweep of this name runs.
        """
        path = make_folder(self.folder) / CLAIM
        touched: list[int] = []

        def waiting(holder: Holder | None) -> bool:
            if holder is None:
                return True
            if holder.host == socket.gethostname():
                return False
            with suppress(FileNotFoundError):
                touched.append(path.stat().st_mtime_ns)
            if len(touched) == 1:
                log.info("%s ran sweep %s: looking for a sign of life for %g s", holder, self.name, stale_after)
            return len(set(touched)) < 2  # else it is alive

        held = acquire(path, stale_after=stale_after, waiting=waiting)
        if held is None:
            holder = read_holder(path)
            raise UserError(f"expected a sweep.name that is not in use, got {self.name!r}, which {holder} runs")
        return held

    def recall(self) -> None:
        """Goes on from the record of earlier starts under this name: a job keeps its number and what is known of it,
        and a job that this start does not ask for is kept."""
        if not (self.folder / RECORD).exists():
            return
        try:
            earlier = read_sweep(self.folder)
        except UserError as error:
            log.warning("%s: the sweep begins anew", error)
            return
        known = {tuple(job.overrides): job for job in (*earlier.jobs, *earlier.others)}
        number = max((job.number for job in known.values()), default=0)
        for job in self.jobs:
            before = known.pop(tuple(job.overrides), None)
            if before is not None:
                job.recall(before)
            else:
                number += 1
                job.number = number
        self.others = list(known.values())
        if self.others:
            log.info("sweep %s has %d other jobs of earlier starts, which are kept", self.name, len(self.others))

    def write(self) -> None:
        """Writes the record; where it cannot be written, the jobs go on all the same."""
        record = asdict(self)
        del record["folder"]
        try:
            write_json(self.folder / RECORD, record)
        except OSError as error:
            log.warning("the record of the sweep could not be written: %s", error)

    def as_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return {**asdict(self), "folder": str(self.folder)}

    @property
    def all_jobs(self) -> list[JobRecord]:
        """Those of this start and of earlier ones, by number."""
        return sorted([*self.jobs, *self.others], key=lambda job: job.number)

    @property
    def exit_code(self) -> int:
        """1 if a job failed, 75 if only interrupted ones have no result, else 0."""
        if any(job.status in FAILED for job in self.jobs):
            return 1
        return 75 if any(job.status == "interrupted" for job in self.jobs) else 0


def find_sweep(root: Path, name: str) -> SweepRecord:
    """The sweep of a name.

    Raises:
        UserError: there is none.
    """
    if not (root / name).is_dir():
        raise UserError(f"expected the name of a sweep, got {name!r} (emorec runs sweeps lists them)")
    return read_sweep(root / name)


def read_sweep(folder: Path) -> SweepRecord:
    """The sweep of a folder; what a killed sweep left running or waiting is "interrupted".

    Raises:
        UserError: there is no readable record.
    """
    path = folder / RECORD
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        jobs, others = ([JobRecord(**job) for job in content.pop(key, [])] for key in ("jobs", "others"))
        sweep = SweepRecord(folder=folder, jobs=jobs, others=others, **content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"expected the record of a sweep in {path}, got {error}") from error
    if not is_live(folder / CLAIM, time.time()):
        for job in sweep.jobs:
            if job.status not in ENDED:
                job.status = "interrupted"
    return sweep


def all_sweeps(root: Path) -> Iterator[SweepRecord]:
    """The sweeps in a folder, oldest first; a record that cannot be read is named and left out."""
    found = []
    for path in list_folder(root, "*/sweep.json"):
        try:
            found.append(read_sweep(path.parent))
        except UserError as error:
            log.warning("%s", error)
    yield from sorted(found, key=lambda sweep: sweep.started)
