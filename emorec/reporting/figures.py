"""Pictures of a group: its confusion matrix and its training curves."""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from emorec.reporting.aggregate import Group
from emorec.storage.atomic import write_bytes

DOTS_PER_INCH = 120


def _save(figure: Any, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    plt.close(figure)
    write_bytes(path, stream.getvalue())


def plot_confusion(group: Group, path: Path, *, split: str, title: str) -> bool:
    """Draws the confusion matrix of a group's runs, added up: recall in colour, counts in figures.

    Returns:
        False where a run has no result on the split.
    """
    key = f"{split}/confusion"
    if any(key not in run.metrics for run in group.runs):
        return False
    counts = np.sum([run.metrics[key] for run in group.runs], axis=0)
    labels = group.first.task["labels"]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.6 + 0.75 * len(labels)
    figure, axes = plt.subplots(figsize=(size + 0.6, size))
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(labels)):
        for column in range(len(labels)):
            colour = "white" if share[row, column] > 0.55 else "black"
            text = f"{share[row, column]:.2f}\n{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.04, label="share of the true class")
    _save(figure, path)
    return True


def plot_curves(group: Group, path: Path, *, title: str) -> None:
    """Draws loss and monitor by epoch, a line a run, with a dot at each run's best epoch."""
    monitor = f"val/{group.first.task['monitor']}"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for number, run in enumerate(group.runs):
        rows = run.history()
        epochs = [row["epoch"] for row in rows]
        first = number == 0
        left.plot(epochs, [row["train/loss"] for row in rows], "C0", alpha=0.6, label="train" if first else None)
        left.plot(epochs, [row["val/loss"] for row in rows], "C1", alpha=0.6, label="validation" if first else None)
        right.plot(epochs, [row[monitor] for row in rows], "C1", alpha=0.6)
        best = [row for row in rows if row["epoch"] == run.record.best_epoch]
        for row in best:
            label = "best epoch" if first else None
            right.plot(row["epoch"], row[monitor], "o", color="C3", markersize=5, label=label)
    left.set_ylabel("loss")
    right.set_ylabel(monitor)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)
