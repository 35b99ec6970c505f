"""The heat map of a cross-corpus matrix."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emorec.escaping import for_figure

DOTS_PER_INCH = 200


def heat_map_png(
    scores: Sequence[Sequence[float | None]],
    counts: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    metric: str,
    notes: Sequence[str] = (),
) -> bytes:
    """A cell for each pair of corpora: the score, as colour and text, and the number of utterances behind it.

    The diagonal, whose test clips are of the training corpus, has a frame. The colours are one hue from light to dark.

    Args:
        scores: (K, K), rows: trained on, columns: tested on; `None` where there is no finite one.
        counts: (K, K), utterances.
        names: (K,), of the corpora.
        metric: of the scores.
        notes: what a reader must know.
    """
    values = np.array([[np.nan if score is None else score for score in row] for row in scores], dtype=np.float64)
    size = 1.8 + 0.95 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    image = axes.imshow(values, cmap="Blues", vmin=min(low, 0.0), vmax=max(high, low + 1e-9, 0.0))
    for (row, column), value in np.ndenumerate(values):
        is_dark = np.isfinite(value) and value - min(low, 0) > 0.55 * (max(high, 0) - min(low, 0))
        text = f"{value:.3f}" if np.isfinite(value) else "–"
        colour = "white" if is_dark else "black"
        label = f"{text}\nn = {counts[row][column]:,}"
        axes.text(column, row, label, ha="center", va="center", color=colour, fontsize=9)
    for number in range(len(names)):
        axes.add_patch(Rectangle((number - 0.48, number - 0.48), 0.96, 0.96, fill=False, edgecolor="#d55e00", lw=2))
    labels = list(map(for_figure, names))
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="tested on (framed: the run's own test split)", ylabel="trained on")
    if notes:
        axes.set_title(for_figure(", ".join(notes)), fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04, label=for_figure(metric))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return stream.getvalue()
