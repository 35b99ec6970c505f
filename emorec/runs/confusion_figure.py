"""The figure of a confusion matrix, for loggers and reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emorec.escaping import for_figure

WHITE_TEXT_FROM = 0.55  # share above which white text is easier to read on the blue than black


def confusion_figure(confusion: ArrayLike, labels: Sequence[str], *, title: str | None = None) -> Any:
    """Plots counts (C, C), whose rows are true classes, as a matplotlib `Figure`, which pyplot does not manage.

    Each cell shows its share of the true class, as colour and text, and the count. The colours are one hue from light
    to dark, readable with every kind of colour vision.
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
    names = list(map(for_figure, labels))
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(for_figure(title or ""), fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04, label="share of the true class")
    return figure
