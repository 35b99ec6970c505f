"""`emorec runs sync`: uploads what W&B keeps offline in the directories of runs."""

import argparse
import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.commands.arguments import Parser, add_action, duration
from emorec.errors import UserError

if TYPE_CHECKING:
    from emorec.runs.checkpoint_store import CheckpointStore, RunRecord

SYNCED = ".synced"  # what W&B adds to the name of an uploaded file, for a mark beside it


@dataclass(frozen=True)
class Upload:
    """What became of a folder of W&B.

    Attributes:
        run_id: whose it is.
        folder: one start of the run.
        status: "uploaded", "failed", "waiting" where it is only told of, "running" where it is written just now.
        error: why it failed.
    """

    run_id: str
    folder: str
    status: str
    error: str | None = None


def add_sync(actions: "argparse._SubParsersAction[Parser]") -> None:
    """Adds the subcommand and its arguments."""
    action = add_action(actions, "sync", "uploads runs that W&B has kept offline")
    action.add_argument("runs", nargs="*", metavar="run", help="ids of runs, or the first digits of them")
    action.add_argument("--all", action="store_true", help="all runs")
    action.add_argument("--dry-run", action="store_true", help="only tell what would be uploaded")
    action.add_argument("--timeout", type=duration, default=600.0, help="for each upload, 10m if not given")


def sync(arguments: Namespace, store: "CheckpointStore") -> int:
    """Uploads; returns 1 where one failed."""
    if bool(arguments.runs) == arguments.all:
        raise UserError("expected either the ids of runs or --all")
    records = store.records() if arguments.all else (store.find(run) for run in arguments.runs)
    uploads = []
    for record in records:
        for upload in _uploads(record, store, act=not arguments.dry_run, timeout=arguments.timeout):
            uploads.append(upload)
            if not arguments.json:
                error = f": {upload.error}" if upload.error else ""
                print(f"run {upload.run_id}  {upload.status}{error}  {upload.folder}")
    if arguments.json:
        print(json.dumps([asdict(upload) for upload in uploads], indent=2))
    elif not uploads:
        print("nothing waits to be uploaded")
    return 1 if any(upload.status == "failed" for upload in uploads) else 0


def waiting(run: Path) -> list[Path]:
    """The folders of W&B in the directory of a run that are not uploaded yet, oldest first."""
    from emorec.loggers.wandb import FOLDER, UNSENT
    from emorec.storage.folders import list_folder

    found = []
    for path in sorted(list_folder(run / FOLDER, "*run-*"), key=lambda path: path.name.removeprefix("offline-")):
        kept = path.name.startswith("offline-") or (path / UNSENT).exists()
        files = list_folder(path, "*.wandb")
        # a folder without any has lost it, which its upload will tell
        if kept and (not files or any(not file.with_name(file.name + SYNCED).exists() for file in files)):
            found.append(path)
    return found


def _uploads(record: "RunRecord", store: "CheckpointStore", *, act: bool, timeout: float) -> Iterator[Upload]:
    from emorec.runs.checkpoint_store import CLAIM
    from emorec.storage.leases import is_live, time_at

    run = store.folder(record.run_id)
    claim = run / CLAIM
    try:
        running = claim.exists() and is_live(claim, time_at(run))
    except FileNotFoundError:
        return  # the run was removed in the meantime
    for folder in waiting(run):
        if running or not act:
            yield Upload(record.run_id, str(folder), "running" if running else "waiting")
            continue
        error = _upload(run, folder, timeout)
        yield Upload(record.run_id, str(folder), "uploaded" if error is None else "failed", error)


def _upload(run: Path, folder: Path, timeout: float) -> str | None:
    """Uploads a folder in a process of its own, and returns what went wrong."""
    from emorec.loggers.wandb import folders_to_environment, tidy

    environment = {**os.environ, **folders_to_environment(run), "WANDB_SILENT": "false"}
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(folder)]
    try:
        done = subprocess.run(
            command,
            cwd=run,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"W&B did not take it within {timeout:.0f} seconds"
    finally:
        tidy(run)
    if folder not in waiting(run):
        return None
    said = [line.removeprefix("wandb:").strip() for line in done.stderr.splitlines() if line.strip()]
    return next(
        (line for line in reversed(said) if "rror" in line), said[-1] if said else f"exit code {done.returncode}"
    )
