"""What a card holds, and what cards have in common."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError
from emorec.escaping import for_markdown
from emorec.reporting.scores import SCORES
from emorec.reporting.statistics import Array, Interval, Resampling
from emorec.runs.results import SHOWN
from emorec.runs.stored_predictions import StoredPredictions, read_predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emorec.training.evaluation import Evaluation

DOTS_PER_INCH = 150
COLOURS = {"text": "#D55E00", "audio": "#0072B2", "video": "#009E73"}  # readable with every kind of colour vision


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card holds."""

    markdown: str  # the text, as it is read
    values: Mapping[str, Any]  # the numbers behind it, for JSON
    summary: str  # what is printed
    files: Mapping[str, bytes] = field(default_factory=dict)  # {name: content} of figures and pages


def monitor_of(task: Task) -> str:
    """The metric that a card compares by: the one that chose the run's epoch, or the first of its kind."""
    return task.monitor if task.monitor in SCORES[task.kind] else SHOWN[task.kind][0]


def is_lower_better(metric: str) -> bool:
    """Whether a smaller value is the better one."""
    return metric in ("mae", "rmse")


def bounds_of(metric: str) -> tuple[float, float]:
    """The least and the largest value of a metric."""
    if is_lower_better(metric):
        return 0.0, float("inf")
    return (-1.0 if metric in ("ccc", "pearson") else 0.0), 1.0


def heading(evaluation: "Evaluation", what: str) -> str:
    """The title of a card, and what it is of."""
    run, dataset = evaluation.record.run_id, for_markdown(evaluation.data.manifest.dataset)
    return f"# {what} of run {run}\n\ndataset={dataset}, split={evaluation.split}."


def split_utterances(evaluation: "Evaluation") -> tuple[Utterance, ...]:
    """The utterances whose predictions count."""
    return evaluation.data.splits[evaluation.loaded_split]


def finite_predictions(evaluation: "Evaluation", card: str) -> StoredPredictions:
    """What the run predicts for the split.

    Raises:
        UserError: a prediction is not finite.
    """
    task = evaluation.data.task
    labels = task.labels if task.kind == "classification" else ()
    predictions = read_predictions(evaluation.target, labels)[evaluation.split]
    if not predictions.is_finite:
        raise UserError(f"card={card}: expected finite predictions, got some that are not")
    return predictions


def draws_of(numbers: "np.ndarray[Any, Any]", count: int) -> Resampling:
    """Draws of clusters, of the number (N,) of each utterance's cluster and how many clusters there are."""
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)
    return Resampling(np.zeros(count, dtype=np.int64), sizes)


def score_of(task: Task, metric: str, sums: Array, draws: Resampling) -> tuple[float, Interval | None]:
    """The value of a metric, of the sums (n, K) of clusters, and its 95 % interval; `None` where none is defined."""
    score, (low, high) = SCORES[task.kind][metric], bounds_of(metric)
    value = float(score(sums.sum(0)))
    if not draws.is_defined:
        return value, None
    return value, draws.interval(value, score(draws.resampled(sums)), low=low, high=high)


def numbers_of(names: "np.ndarray[Any, Any]") -> tuple["np.ndarray[Any, Any]", int]:
    """(N,) the number of each name, from 0 on, and how many names there are; `None` is a name by itself each time."""
    known: dict[object, int] = {}
    keys = [("", row) if name is None else name for row, name in enumerate(names.tolist())]
    numbers = np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)
    return numbers, len(known)


def clusters_of(predictions: StoredPredictions) -> tuple["np.ndarray[Any, Any]", str]:
    """(N,) the names of what is drawn for intervals, and what it is: speakers, dialogues, or utterances."""
    for what, names in (("speakers", predictions.speaker), ("dialogues", predictions.dialogue)):
        if len({name for name in names.tolist() if name is not None}) > 1:
            return names, what
    return predictions.id, "utterances"


def png_of(figure: "Figure") -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return stream.getvalue()
