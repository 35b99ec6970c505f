"""Runs as tables and pages of text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emorec.markdown import markdown_table
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.results import read_metrics


def runs_table(store: CheckpointStore, records: Iterable[RunRecord]) -> str:
    """A table of runs: status, composed choices and validation score."""
    rows = []
    for record in records:
        metrics = read_metrics(store.folder(record.run_id))
        monitor = f"val/{record.task['monitor']}"
        score = f"{monitor}={metrics[monitor]:.4f}" if monitor in metrics else ""
        fold = "" if record.fold is None else str(record.fold)
        choices = " ".join(_shown_choices(record.choices))
        rows.append([record.run_id, record.status, record.started, choices, str(record.seed), fold, score])
    return markdown_table(["run", "status", "started", "choices", "seed", "fold", "validation"], rows)


def _shown_choices(choices: Mapping[str, str]) -> list[str]:
    encoders = [choices[key] for key in sorted(choices) if key.startswith("encoder/") and choices[key] != "none"]
    return [choices.get("dataset", ""), *encoders, *(choices[key] for key in ("fusion", "loss") if key in choices)]


def run_page(record: RunRecord, metrics: Mapping[str, Any], folder: Path) -> str:
    """The record, the metrics and the scores by class of a run."""
    lines = [f"{key:<14}{json.dumps(value, ensure_ascii=False)}" for key, value in asdict(record).items()]
    lines += [f"{key:<20}{value:.4f}" for key, value in metrics.items() if isinstance(value, float)]
    for split in ("val", "test"):
        if f"{split}/per_class" in metrics:
            rows = [
                [label, *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")), str(row["support"])]
                for label, row in metrics[f"{split}/per_class"].items()
            ]
            lines += ["", split, markdown_table(["class", "precision", "recall", "f1", "support"], rows)]
    return "\n".join([*lines, "", str(folder)])
