"""Utterances that a page of examples shows."""

from dataclasses import dataclass

import numpy as np

from emorec.datasets.utterance import Task
from emorec.runs.stored_predictions import StoredPredictions


@dataclass(frozen=True, kw_only=True)
class Example:
    """An utterance, and why it is shown."""

    id: str  # of the utterance
    row: int  # in the predictions
    title: str  # why it is shown
    section: str  # under which heading: its true class
    target: str  # class or value, for readers
    predicted: str  # likewise
    number: int  # of the class that is explained: the predicted one; 0 for regression
    confidence: float | None  # probability of the predicted class; `None` for regression


def chosen_examples(predictions: StoredPredictions, task: Task, count: int) -> list[Example]:
    """Of each class the `count` most confident right ones, and as many of the most confident wrong ones.

    For regression those with the smallest and the largest errors.
    """
    if not predictions.is_classification:
        return _of_values(predictions, task, count)
    confidence = predictions.probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    is_right = predictions.predicted == predictions.target
    examples = []
    for number, label in enumerate(task.labels):
        for title, wanted in (("right", is_right), ("wrong", ~is_right)):
            rows = [row for row in order.tolist() if predictions.target[row] == number and wanted[row]]
            examples += [
                Example(
                    id=str(predictions.id[row]),
                    row=row,
                    title=title,
                    section=label,
                    target=label,
                    predicted=task.labels[int(predictions.predicted[row])],
                    number=int(predictions.predicted[row]),
                    confidence=float(confidence[row]),
                )
                for row in rows[:count]
            ]
    return examples


def _of_values(predictions: StoredPredictions, task: Task, count: int) -> list[Example]:
    errors = np.abs(predictions.predicted - predictions.target)
    order = [row for row in np.argsort(errors, kind="stable").tolist() if np.isfinite(errors[row])]
    chosen = {row: "near" for row in order[:count]}
    chosen |= {row: "far" for row in order[-count:][::-1] if row not in chosen}
    return [
        Example(
            id=str(predictions.id[row]),
            row=row,
            title=title,
            section=task.labels[0],
            target=f"{predictions.target[row]:.3f}",
            predicted=f"{predictions.predicted[row]:.3f}",
            number=0,
            confidence=None,
        )
        for row, title in chosen.items()
    ]
