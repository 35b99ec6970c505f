"""Figures of a group of runs: confusion matrix and training curves."""

import io
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emorec.escaping import for_figure
from emorec.reporting.aggregate import Group
from emorec.runs.confusion_figure import confusion_figure

DOTS_PER_INCH = 120


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return stream.getvalue()


def confusion_png(group: Group, *, split: str, title: str) -> bytes | None:
    """The sum of the confusion matrices of a group's runs; `None` if a run has none of the split."""
    labels = group.contest.labels
    matrices = [run.metrics.get(f"{split}/confusion") for run in group.runs]
    if not labels or not all(_is_square(matrix, len(labels)) for matrix in matrices):
        return None
    return _png(confusion_figure(np.sum(np.array(matrices), axis=0), labels, title=title))


def _is_square(matrix: Any, size: int) -> bool:
    """Whether it is a list of so many rows of so many numbers."""
    if not isinstance(matrix, list) or len(matrix) != size:
        return False
    rows = [row for row in matrix if isinstance(row, list) and len(row) == size]
    return len(rows) == size and all(isinstance(count, int | float) for row in rows for count in row)


def curves_png(group: Group, *, title: str) -> bytes:
    """Loss and monitor over the epochs: a line for each run, and a dot at its best epoch."""
    monitor = f"val/{group.contest.monitor}"
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(group.runs):
        first = number == 0
        epochs, train, validation, scores = (
            [row.get(name, math.nan) for row in run.history] for name in ("epoch", "train/loss", "val/loss", monitor)
        )
        left.plot(epochs, train, "C0", alpha=0.6, label="train" if first else None)
        left.plot(epochs, validation, "C1", alpha=0.6, label="validation" if first else None)
        right.plot(epochs, scores, "C1", alpha=0.6)
        if run.record.best_epoch in epochs:
            best = scores[epochs.index(run.record.best_epoch)]
            label = "best epoch" if first else None
            right.plot(run.record.best_epoch, best, "o", color="C3", markersize=5, label=label)
    for axes, label in ((left, "loss"), (right, monitor)):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(for_figure(title), fontsize=10)
    return _png(figure)
