"""What a run says over the time of a recording, and how it is smoothed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.inference.prediction import Prediction, prediction_of

Smoother = Literal["none", "ema", "hmm"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Timeline:
    """The predictions of the segments of one recording, in the order of time."""

    id: str  # of the recording
    predictions: tuple[Prediction, ...]


def check_smoother(task: Task, smoother: Smoother) -> None:
    """Raises a `UserError` where a hidden Markov model is asked for values, which are no states."""
    if task.kind == "regression" and smoother == "hmm":
        raise UserError("smoothing.method: expected ema for a task of regression, got hmm")


def smoothed(timeline: Timeline, task: Task, smoother: Smoother, seconds: float) -> Timeline:
    """A timeline whose predictions agree with those around them.

    Args:
        timeline: of a recording.
        task: of the predictions.
        smoother: "ema" or "hmm", see the functions of that name; "none" leaves everything as it is.
        seconds: how long what was seen is remembered.

    """
    if smoother == "none":
        return timeline
    known = [item for item in timeline.predictions if item.predicted is not None]
    if not known:
        return timeline
    times = np.array([((item.start or 0) + (item.end or 0)) / 2 for item in known])
    values = np.array([item.values(task) for item in known])
    result = iter((ema if smoother == "ema" else hmm)(values, times, seconds))
    return replace(
        timeline,
        predictions=tuple(
            item if item.predicted is None else prediction_of(item, task, next(result)) for item in timeline.predictions
        ),
    )


def ema(values: Values, times: Values, seconds: float) -> Values:
    """The exponential moving average (W, C) of values (W, C): it looks back only.

    Args:
        values: probabilities, or values of a regression.
        times: (W,) seconds, ascending.
        seconds: after which a value counts 1 / e of a new one.
    """
    result = values.copy()
    for number in range(1, len(values)):
        kept = np.exp(-(times[number] - times[number - 1]) / seconds)
        result[number] = kept * result[number - 1] + (1 - kept) * values[number]
    return result


def hmm(probabilities: Values, times: Values, seconds: float) -> Values:
    """The probabilities (W, C) of the states of a hidden Markov model, given all windows before and after.

    Forward-backward (Rabiner 1989, doi 10.1109/5.18626). A state is a class; after `seconds` on average it is drawn
    anew, each class with the same probability, and each window's probabilities (W, C) are its likelihoods, as if all
    classes were equally frequent.

    Args:
        probabilities: of each window by itself.
        times: (W,) seconds, ascending.
        seconds: mean time until the state is drawn anew.
    """
    stays = np.exp(-np.diff(times) / seconds)  # (W - 1,)
    forward = _passed(probabilities, stays)
    backward = _passed(probabilities[::-1], stays[::-1])[::-1]
    joint: Values = forward * backward / np.maximum(probabilities, np.finfo(np.float64).tiny)
    joint /= joint.sum(1, keepdims=True)
    return joint


def _passed(likelihoods: Values, stays: Values) -> Values:
    """(W, C) probabilities of the states given the windows up to each of them."""
    result: Values = likelihoods / likelihoods.sum(1, keepdims=True)
    for number, stay in enumerate(stays, start=1):
        state = likelihoods[number] * (stay * result[number - 1] + (1 - stay) / likelihoods.shape[1])
        result[number] = state / state.sum()
    return result


def without_repeated_gaps(predictions: Sequence[Prediction]) -> tuple[Prediction, ...]:
    """The same, with segments of which nothing can be used, for the same reason, as one."""
    kept: list[Prediction] = []
    for item in predictions:
        last = kept[-1] if kept else None
        if last and last.predicted is None and item.predicted is None and last.problems == item.problems:
            kept[-1] = replace(last, end=item.end)
        else:
            kept.append(item)
    return tuple(kept)
