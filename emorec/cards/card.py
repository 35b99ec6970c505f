"""What a card holds, and what cards have in common."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emorec.datasets.utterance import Task, Utterance
from emorec.escaping import for_markdown
from emorec.reporting.scores import SCORES
from emorec.reporting.statistics import Interval
from emorec.runs.results import SHOWN
from emorec.runs.stored_predictions import StoredPredictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emorec.training.evaluation import Evaluation

DOTS_PER_INCH = 150
COLOURS = {"text": "#D55E00", "audio": "#0072B2", "video": "#009E73"}  # readable with every kind of colour vision


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card holds.

    Attributes:
        markdown: the text, as it is read.
        values: the numbers behind it, for JSON.
        summary: what is printed.
        files: {name: content} of figures and pages.
    """

    markdown: str
    values: Mapping[str, Any]
    summary: str
    files: Mapping[str, bytes] = field(default_factory=dict)


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


def interval_text(interval: Interval | None) -> str:
    """`[0.512, 0.634]`, or nothing where it is not known."""
    return "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


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
