"""Uploads what W&B keeps offline in the directories of runs."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from emorec.errors import UserError
from emorec.loggers.wandb import FOLDER, UNSENT, folders_to_environment, tidy
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.runs.maintenance import is_trained
from emorec.storage.folders import check_links, list_folder

SYNCED = ".synced"  # W&B appends it to the name of an uploaded file, and puts a file of that name beside it


@dataclass(frozen=True)
class Upload:
    """The result for one folder of W&B."""

    run_id: str
    folder: str  # of one start of the run
    status: str  # "uploaded", "failed", "waiting" in a dry run, or "running" while the run still writes it
    error: str | None = None  # why it failed

    def __str__(self) -> str:
        return f"run {self.run_id}  {self.status}{f': {self.error}' if self.error else ''}  {self.folder}"


def waiting(run: Path) -> list[Path]:
    """The folders of W&B in a run's directory that are not uploaded yet, oldest first."""
    folders = []
    for path in sorted(list_folder(run / FOLDER, "*run-*"), key=lambda path: path.name.removeprefix("offline-")):
        is_unsent = path.name.startswith("offline-") or (path / UNSENT).exists()
        files = list_folder(path, "*.wandb")
        # a folder that has lost its file waits as well: its upload reports the error
        if is_unsent and (not files or any(not file.with_name(file.name + SYNCED).exists() for file in files)):
            folders.append(path)
    return folders


def uploads(
    store: CheckpointStore, runs: Sequence[str], *, all_runs: bool = False, act: bool, timeout: float
) -> Iterator[Upload]:
    """Uploads the waiting folders of some runs, one after the other.

    Args:
        store: where the runs are.
        runs: their ids, or the first digits of them; empty for `all_runs`.
        all_runs: takes all runs.
        act: false for a dry run.
        timeout: seconds for each folder.

    Raises:
        UserError: there is no such run, or the runs are given neither by id nor by `all_runs`, or by both.
    """
    if bool(runs) == all_runs:
        raise UserError("expected either the ids of runs or --all")
    for record in store.records() if all_runs else map(store.find, runs):
        run = store.folder(record.run_id).absolute()
        running = is_trained(run)
        try:
            check_links(run / FOLDER)
        except OSError as link:
            yield Upload(record.run_id, str(run / FOLDER), "failed", f"{link.strerror}: {link.filename}")
            continue
        for folder in waiting(run):
            if running or not act:
                yield Upload(record.run_id, str(folder), "running" if running else "waiting")
                continue
            error = _upload(run, folder, timeout)
            yield Upload(record.run_id, str(folder), "uploaded" if error is None else "failed", error)


def _upload(run: Path, folder: Path, timeout: float) -> str | None:
    """Uploads a folder in a separate process, and returns the error if there was one.

    Others may write to the run's directory: the process works elsewhere, so that it neither imports a module from
    there (`-P`) nor reads W&B's settings, which name the server that gets the key.
    """
    with TemporaryDirectory(prefix="emorec-sync-") as own:
        try:
            process = subprocess.run(
                [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", str(folder)],
                cwd=own,
                env={**os.environ, **folders_to_environment(Path(own)), "WANDB_SILENT": "false", "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"W&B did not finish within {timeout:.0f} seconds"
        finally:
            tidy(run)
    if folder not in waiting(run):
        return None
    lines = [line.removeprefix("wandb:").strip() for line in process.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or [f"exit code {process.returncode}"])[-1]
