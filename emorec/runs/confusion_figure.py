"""The figure of a confusion matrix, for loggers and reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

WHITE_TEXT_FROM = 0.55  # of a row's share: below it black is easier to read on the blue


def confusion_figure(confusion: ArrayLike, labels: Sequence[str], *, title: str | None = None) -> Any:
    """Draws a confusion matrix: a cell's colour and first line are its share of the true class, below is the count.

    One hue from light to dark is readable with every kind of colour vision.

    Args:
        confusion: (C, C) counts, rows are true classes.
        labels: (C,) names.
        title: above the matrix.

    Returns:
        A matplotlib `Figure` that pyplot does not know, so nothing has to be closed.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.6 + 0.75 * len(labels)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > WHITE_TEXT_FROM else "black"
        text = f"{share:.2f}\n{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title or "", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04, label="share of the true class")
    return figure
