"""The record of a multirun: `sweeps/<name>/sweep.json`, updated while it runs."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from emorec.errors import UserError
from emorec.storage.atomic import make_folder, write_json
from emorec.storage.claims import Claim, Holder, acquire, is_alive, read_holder
from emorec.storage.folders import check_links, list_folder
from emorec.storage.leases import is_live
from emorec.storage.regular_files import read_regular

log = logging.getLogger(__name__)

RECORD = "sweep.json"
CLAIM = "sweep.claim"  # in the folder of a running sweep
FAILED = ("failed", "invalid")
ENDED = ("finished", "skipped", "interrupted", *FAILED)


def timestamp() -> str:
    """The current time with its zone, in ISO 8601, to the millisecond."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


@dataclass
class JobRecord:
    """One job.

    Its status is "waiting", "running"; then "finished", "skipped" (another process trains the run), "interrupted" (the
    same command resumes it), "failed", or "invalid" (its config is wrong, it is not started).
    """

    number: int  # counted from 1
    overrides: list[str]
    status: str = "waiting"
    run_id: str | None = None  # once it is known
    started: str | None = None  # `None` for a job that was not started, such as a finished or an invalid one
    ended: str | None = None
    seconds: float = 0.0  # from its start to its end
    metrics: dict[str, float] = field(default_factory=dict)  # {name: value} for the table
    exit_code: int | None = None  # negative for the signal that killed it
    error: str | None = None  # of a failed or invalid job
    log: str | None = None  # path of its output, relative to the folder of the sweep
    same_as: int | None = None  # number of an earlier job with the same run

    def start(self) -> None:
        """Marks it as running from now."""
        self.status, self.started, self.ended = "running", timestamp(), None

    def end(self, status: str, error: str | None = None) -> None:
        """Marks it as ended now."""
        self.status, self.error, self.ended = status, error, timestamp()
        self.seconds = self.elapsed()

    def elapsed(self) -> float:
        """Seconds from its start to its end, or until now."""
        if self.started is None:
            return 0.0
        end = time.time() if self.ended is None else datetime.fromisoformat(self.ended).timestamp()
        return round(max(0.0, end - datetime.fromisoformat(self.started).timestamp()), 3)

    def resume(self, earlier: "JobRecord") -> None:
        """Continues the record of this job from an earlier command; only a finished job keeps its result."""
        self.number, self.log = earlier.number, earlier.log
        if self.status == "waiting" and earlier.status == "finished":
            for name in ("status", "run_id", "started", "ended", "seconds", "metrics", "exit_code"):
                setattr(self, name, getattr(earlier, name))

    def copy_outcome(self, other: "JobRecord") -> None:
        """Copies the outcome of a job with the same run."""
        self.status, self.run_id, self.metrics, self.error = other.status, other.run_id, other.metrics, other.error
        self.same_as = other.number


@dataclass
class SweepRecord:
    """A multirun."""

    folder: Path  # `checkpoints/sweeps/<name>`
    name: str
    launcher: str
    jobs: list[JobRecord]  # of this command
    others: list[JobRecord] = field(default_factory=list)  # of earlier commands with this name, not among `jobs`
    started: str = field(default_factory=timestamp)
    ended: str | None = None  # `None` while it runs, or if it was killed

    def claim(self, stale_after: float) -> Claim:
        """Claims the folder for this process. The sweep of a process that is not seen from here, such as one on another
        host, counts as dead after `stale_after` seconds without a heartbeat.

        Raises:
            UserError: another process runs a sweep of this name.
        """
        check_links(make_folder(self.folder))
        path = self.folder / CLAIM
        heartbeats: list[int] = []  # times at which the other process touched its claim

        def waiting(holder: Holder | None) -> bool:
            if holder is None:
                return True
            if is_alive(holder):
                return False
            with suppress(FileNotFoundError):
                heartbeats.append(path.lstat().st_mtime_ns)
            if len(heartbeats) == 1:
                log.info("sweep %s belongs to %s: waiting %g s for a heartbeat", self.name, holder, stale_after)
            return len(set(heartbeats)) < 2  # otherwise it is alive

        claim = acquire(path, stale_after=stale_after, waiting=waiting)
        if claim is None:
            holder = read_holder(path)
            raise UserError(f"expected a sweep.name that is not in use, got {self.name!r}, which {holder} runs")
        return claim

    def resume(self) -> None:
        """Continues the record of earlier commands with this sweep name: jobs with the same overrides keep their number
        and result, and the jobs that are not part of this command are kept in `others`."""
        if not (self.folder / RECORD).exists():
            return
        try:
            earlier = read_sweep(self.folder)
        except UserError as error:
            log.warning("%s: a new record is written", error)
            return
        known = {tuple(job.overrides): job for job in (*earlier.jobs, *earlier.others)}
        number = max((job.number for job in known.values()), default=0)
        for job in self.jobs:
            earlier_job = known.pop(tuple(job.overrides), None)
            if earlier_job is not None:
                job.resume(earlier_job)
            else:
                number += 1
                job.number = number
        self.others = list(known.values())
        if self.others:
            log.info("sweep %s keeps %d other jobs of earlier commands", self.name, len(self.others))

    def write(self) -> None:
        """Writes the record; an error is only logged, so that the jobs continue."""
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
        """All jobs of the sweep, by number."""
        return sorted([*self.jobs, *self.others], key=lambda job: job.number)

    @property
    def exit_code(self) -> int:
        """1 if a job failed, else 75 if a job was interrupted, else 0."""
        if any(job.status in FAILED for job in self.jobs):
            return 1
        return 75 if any(job.status == "interrupted" for job in self.jobs) else 0


def find_sweep(root: Path, name: str) -> SweepRecord:
    """Reads the record of a sweep by its name.

    Raises:
        UserError: there is no such sweep.
    """
    if Path(name).name != name or not (root / name).is_dir():
        raise UserError(f"expected the name of a sweep, got {name!r} (emorec runs sweeps lists them)")
    return read_sweep(root / name)


def read_sweep(folder: Path) -> SweepRecord:
    """Reads the record in a folder. Unfinished jobs of a sweep that does not run any more are "interrupted".

    Raises:
        UserError: the record is missing or not readable.
    """
    path = folder / RECORD
    try:
        content: dict[str, Any] = json.loads(read_regular(path, follow=False))
        jobs, others = ([JobRecord(**job) for job in content.pop(key, [])] for key in ("jobs", "others"))
        sweep = SweepRecord(folder=folder, jobs=jobs, others=others, **content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"expected the record of a sweep in {path}, got {error}") from error
    if not is_live(folder / CLAIM, time.time()):
        for job in sweep.jobs:
            if job.status not in ENDED:
                job.status = "interrupted"
    return sweep


def all_sweeps(root: Path) -> Iterator[SweepRecord]:
    """Reads the sweeps in a folder, oldest first; unreadable records are logged and left out."""
    sweeps = []
    for path in list_folder(root, "*/sweep.json"):
        try:
            sweeps.append(read_sweep(path.parent))
        except UserError as error:
            log.warning("%s", error)
    yield from sorted(sweeps, key=lambda sweep: sweep.started)
