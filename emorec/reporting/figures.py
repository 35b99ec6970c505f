"""Figures of a group of runs: confusion matrix and training curves."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from emorec.escaping import for_figure
from emorec.reporting.aggregate import Group
from emorec.runs.confusion_figure import confusion_figure
from emorec.runs.results import read_history
from emorec.storage.atomic import write_bytes

DOTS_PER_INCH = 120


def _save(figure: Figure, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    write_bytes(path, stream.getvalue())


def plot_confusion(group: Group, path: Path, *, split: str, title: str) -> bool:
    """Plots the sum of the confusion matrices of a group's runs; false if a run has none of the split."""
    key = f"{split}/confusion"
    if any(key not in run.metrics for run in group.runs):
        return False
    counts = np.sum([run.metrics[key] for run in group.runs], axis=0)
    _save(confusion_figure(counts, group.first.task["labels"], title=title), path)
    return True


def plot_curves(group: Group, path: Path, *, title: str) -> None:
    """Plots loss and monitor over the epochs: a line for each run, and a dot at its best epoch."""
    monitor = f"val/{group.first.task['monitor']}"
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(group.runs):
        rows = read_history(run.folder)
        epochs = [row["epoch"] for row in rows]
        first = number == 0
        left.plot(epochs, [row["train/loss"] for row in rows], "C0", alpha=0.6, label="train" if first else None)
        left.plot(epochs, [row["val/loss"] for row in rows], "C1", alpha=0.6, label="validation" if first else None)
        right.plot(epochs, [row[monitor] for row in rows], "C1", alpha=0.6)
        for row in rows:
            if row["epoch"] == run.record.best_epoch:
                label = "best epoch" if first else None
                right.plot(row["epoch"], row[monitor], "o", color="C3", markersize=5, label=label)
    for axes, label in ((left, "loss"), (right, monitor)):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(for_figure(title), fontsize=10)
    _save(figure, path)
