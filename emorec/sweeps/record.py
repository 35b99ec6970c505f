"""What became of each job of a multirun, kept while it runs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from emorec.storage.atomic import write_json


@dataclass
class JobRecord:
    """One job.

    Attributes:
        number: from 0.
        overrides: of this job.
        status: "waiting", "running", "finished", "skipped", "failed".
        run_id: once it is known.
        seconds: how long it took.
        metrics: {name: value} that the table shows.
        error: why it failed.
    """

    number: int
    overrides: list[str]
    status: str = "waiting"
    run_id: str | None = None
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass
class SweepRecord:
    """A multirun: `sweeps/<name>/sweep.json`."""

    folder: Path
    name: str
    jobs: list[JobRecord]

    def write(self) -> None:
        """Writes the record."""
        write_json(self.folder / "sweep.json", {"name": self.name, "jobs": [asdict(job) for job in self.jobs]})
