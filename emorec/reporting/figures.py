"""Figures of a group of runs for a page and for a paper of two columns: a column is 3.4 inches wide, letters are of 8
points, and the colours are told apart with every kind of colour vision (Okabe & Ito 2008)."""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emorec.escaping import for_figure
from emorec.reporting.aggregate import Group
from emorec.reporting.calibration import BINS
from emorec.reporting.pooled import Pooled
from emorec.runs.confusion_figure import confusion_figure

DOTS_PER_INCH = 160
COLUMN = 3.4  # inches
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
MOST_LINES = len(COLOURS)  # of classes or speakers with a colour of their own
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters stay letters
}


@dataclass(frozen=True)
class Picture:
    """A figure as files.

    Attributes:
        kind: beginning of its files' names.
        what: it shows.
    """

    kind: str
    what: str
    png: bytes
    pdf: bytes


@contextmanager
def _style() -> Iterator[None]:
    colours = cycler(color=COLOURS)
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": colours}):
        yield


def _picture(kind: str, what: str, figure: Figure) -> Picture:
    files = {}
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):  # the same bytes each time
        stream = io.BytesIO()
        figure.savefig(stream, format=ending, dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=metadata)
        files[ending] = stream.getvalue()
    return Picture(kind, what, **files)


def pictures_of(group: Group, pooled: Pooled | None) -> list[Picture]:
    """The figures that a group has what they need for."""
    with _style():
        pictures = [_picture("curves", "training curves", _curves(group))]
        drawn: list[tuple[str, str, Callable[[], Figure | None]]] = []
        split = "test" if all("test/loss" in run.numbers for run in group.runs) else "val"
        if (counts := confusion_of(group, split)) is not None:
            drawn.append(("confusion", f"confusion matrix on {split}", lambda: _confusion(group, counts)))
        if pooled is not None and pooled.is_classification:
            drawn += [
                ("classes", f"recall and F1 by class on {pooled.split}", lambda: _classes(group, pooled)),
                ("reliability", f"reliability on {pooled.split}", lambda: _reliability(pooled)),
                ("roc", f"ROC curves on {pooled.split}", lambda: _roc(group, pooled)),
            ]
        elif pooled is not None:
            drawn.append(("scatter", f"predicted and true values on {pooled.split}", lambda: _scatter(pooled)))
        for kind, what, draw in drawn:
            if (figure := draw()) is not None:
                pictures.append(_picture(kind, what, figure))
    return pictures


def confusion_of(group: Group, split: str) -> NDArray[Any] | None:
    """The sum (C, C) of the confusion matrices of a group's runs; `None` if a run has none of the split."""
    labels = group.contest.labels
    matrices = [run.metrics.get(f"{split}/confusion") for run in group.runs]
    if not labels or not all(_is_square(matrix, len(labels)) for matrix in matrices):
        return None
    total: NDArray[Any] = np.sum(np.array(matrices), axis=0)
    return total


def _is_square(matrix: Any, size: int) -> bool:
    """Whether it is a list of so many rows of so many numbers."""
    if not isinstance(matrix, list) or len(matrix) != size:
        return False
    rows = [row for row in matrix if isinstance(row, list) and len(row) == size]
    return len(rows) == size and all(isinstance(count, int | float) for row in rows for count in row)


def _curves(group: Group) -> Figure:
    """Loss and monitor over the epochs: a line for each run, and a dot at its best epoch."""
    monitor = f"val/{group.contest.monitor}"
    figure = Figure(figsize=(2 * COLUMN, 0.7 * COLUMN), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(group.runs):
        first = number == 0
        epochs, train, validation, scores = (
            [row.get(name, math.nan) for row in run.history] for name in ("epoch", "train/loss", "val/loss", monitor)
        )
        left.plot(epochs, train, COLOURS[0], alpha=0.6, label="train" if first else None)
        left.plot(epochs, validation, COLOURS[1], alpha=0.6, label="validation" if first else None)
        right.plot(epochs, scores, COLOURS[1], alpha=0.6)
        if run.record.best_epoch in epochs:
            best = scores[epochs.index(run.record.best_epoch)]
            label = "best epoch" if first else None
            right.plot(run.record.best_epoch, best, "o", color=COLOURS[4], markersize=4, label=label)
    for axes, label in ((left, "loss"), (right, monitor)):
        axes.set(xlabel="epoch", ylabel=label)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def _confusion(group: Group, counts: NDArray[Any]) -> Figure:
    """Shares of the true class, and counts."""
    with matplotlib.rc_context({"axes.grid": False}):
        figure: Figure = confusion_figure(counts, group.contest.labels)
    return figure


def _classes(group: Group, pooled: Pooled) -> Figure:
    """Mean over the runs; a line from the least to the largest."""
    labels = group.contest.labels
    values: dict[str, list[NDArray[np.float64]]] = {"recall": [], "F1": []}
    for run in pooled.runs:
        hits = np.array([((run.target == k) & (run.predicted == k)).sum() for k in range(len(labels))])
        true = np.array([(run.target == k).sum() for k in range(len(labels))])
        found = np.array([((run.target >= 0) & (run.predicted == k)).sum() for k in range(len(labels))])
        values["recall"].append(hits / np.maximum(true, 1))
        values["F1"].append(2 * hits / np.maximum(true + found, 1))
    figure = Figure(figsize=(max(COLUMN, 0.5 * len(labels) + 1), 0.75 * COLUMN), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(labels))
    for number, (name, rows) in enumerate(values.items()):
        table = np.array(rows)  # (runs, C)
        mean = table.mean(0)
        spread = np.abs(np.array([table.min(0), table.max(0)]) - mean) if len(table) > 1 else None
        axes.bar(places + 0.4 * number - 0.2, mean, 0.38, yerr=spread, label=name, error_kw={"linewidth": 0.8})
    axes.set_xticks(places, list(map(for_figure, labels)), rotation=45, ha="right")
    axes.set(ylim=(0, 1), ylabel="share")
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _reliability(pooled: Pooled) -> Figure | None:
    """Accuracy over confidence in bins of equal numbers of utterances, and where the confidences lie."""
    confidence = pooled.probabilities.max(1)
    if len(confidence) == 0 or not np.isfinite(confidence).all():
        return None
    hit = pooled.probabilities.argmax(1) == pooled.target
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(BINS, len(confidence)))
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    upper.plot([0, 1], [0, 1], "--", color="0.6", label="calibrated")
    upper.plot([confidence[item].mean() for item in bins], [hit[item].mean() for item in bins], "o-", markersize=3)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend()
    lower.hist(confidence, bins=20, range=(0, 1), color=COLOURS[5])
    lower.set(xlabel="confidence", ylabel="count")
    return figure


def _roc(group: Group, pooled: Pooled) -> Figure | None:
    """Each class against the others."""
    from sklearn.metrics import roc_auc_score, roc_curve

    if not np.isfinite(pooled.probabilities).all():
        return None
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="0.6")
    drawn = 0
    for number, label in enumerate(group.contest.labels):
        is_class = pooled.target == number
        if is_class.all() or not is_class.any():
            continue
        false, true, _ = roc_curve(is_class, pooled.probabilities[:, number])
        area = roc_auc_score(is_class, pooled.probabilities[:, number])
        style = "-" if number < MOST_LINES else ":"
        axes.plot(false, true, style, label=f"{for_figure(label)} {area:.2f}", linewidth=1)
        drawn += 1
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(title="area under the curve", title_fontsize=7)
    return figure if drawn else None


def _scatter(pooled: Pooled) -> Figure:
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.subplots()
    ends = [float(np.nanmin(pooled.target)), float(np.nanmax(pooled.target))] if len(pooled.target) else [0.0, 1.0]
    axes.plot(ends, ends, "--", color="0.6")
    axes.plot(pooled.target, pooled.predicted, ".", markersize=2, alpha=0.5)
    axes.set(xlabel="true", ylabel="predicted")
    return figure


def projection_picture(
    places: NDArray[np.float64], columns: Mapping[str, Sequence[str]], *, method: str, shares: Sequence[float] = ()
) -> Picture:
    """Points (N, 2) coloured by each of some columns (N,), side by side.

    Args:
        places: (N, 2).
        columns: {what the colour says: the name of each point}; names beyond the eighth are grey.
        method: "PCA" or "t-SNE".
        shares: of the variance, for each axis.
    """
    with _style():
        figure = Figure(figsize=(2 * COLUMN, 2 * COLUMN / len(columns) + 0.6), layout="constrained")
        for axes, (title, names) in zip(np.atleast_1d(figure.subplots(1, len(columns))), columns.items(), strict=True):
            _points(axes, places, np.array(names, dtype=object), title)
            if shares:
                axes.set(xlabel=f"{shares[0]:.0%} of the variance", ylabel=f"{shares[1]:.0%}")
        return _picture("projection", f"fused vectors, {method}", figure)


def _points(axes: Any, places: NDArray[np.float64], names: NDArray[np.object_], title: str) -> None:
    unique, counts = np.unique(names.astype(str), return_counts=True)
    coloured = sorted(unique[np.argsort(-counts, kind="stable")][: MOST_LINES - 1])
    rest = ~np.isin(names.astype(str), coloured)
    axes.plot(*places[rest].T, ".", color="0.75", markersize=2)
    for name in coloured:
        own = names.astype(str) == name
        axes.plot(*places[own].T, ".", markersize=2, label=for_figure(name), alpha=0.7)
    axes.set_title(title if not rest.any() else f"{title} (others grey)")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(markerscale=3, handletextpad=0.1, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
