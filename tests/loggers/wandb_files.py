"""Reads what W&B wrote, with W&B's own tool."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Written:
    """What a `.wandb` file holds.

    Attributes:
        run: its first record: id, group, tags, …
        history: {epoch: row}, of the rows that hold an epoch's metrics.
        summary: the last value of each key; nested keys are joined by dots.
        metrics: {name or glob: the metric it is drawn against}.
        exit_code: `None` where the run did not end.
        text: all of it.
    """

    run: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str | None] = field(default_factory=dict)
    exit_code: int | None = None
    text: str = ""


def wandb_files(run: Path) -> list[Path]:
    """The `.wandb` files of a run's directory, oldest first."""
    return sorted((run / "wandb").glob("*run-*/*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))


def read(path: Path) -> Written:
    """Reads a `.wandb` file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=path.parent)
    found = Written(text=done.stdout)
    for line in done.stdout.splitlines():
        record = json.loads(line)
        content = record.get(record["type"], {})
        if record["type"] == "run":
            found.run = content
        elif record["type"] == "summary":
            found.summary |= content.get("update", {})
        elif record["type"] == "metric":
            found.metrics[content.get("name") or content["glob_name"]] = content.get("step_metric")
        elif record["type"] == "history" and "train/loss" in content["item"]:
            found.history[content["item"]["epoch"]] = content["item"]
        elif record["type"] == "exit":
            found.exit_code = content["exit_code"]
    return found
