"""How well stored probabilities agree with what happens. `emorec.metrics.probabilities` has the metrics of training;
these are of NumPy alone, as a report loads no torch.

All take the classes (N,), of which negative ones do not count, and the probabilities (N, C).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BINS = 15
LEAST_PROBABILITY = 1e-12  # a smaller one counts as this: float32 has rounded it

Target: TypeAlias = NDArray[np.int64]
Probabilities: TypeAlias = NDArray[Any]


def _known(target: Target, probabilities: Probabilities) -> tuple[Target, NDArray[np.float64]]:
    known = target >= 0
    return target[known], probabilities[known].astype(np.float64)


def ece(target: Target, probabilities: Probabilities, *, bins: int = BINS) -> float:
    """Expected calibration error of the predicted class, in bins of equal numbers of utterances.

    The mean distance of confidence and accuracy over bins, weighted by their utterances. Bins of equal mass, unlike
    those of equal width, have enough utterances each (Nixon et al. 2019, "Measuring calibration in deep learning").
    NaN without utterances.
    """
    target, probabilities = _known(target, probabilities)
    if len(target) == 0:
        return float("nan")
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == target
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(confidence[part].sum() - hit[part].sum()) for part in parts) / len(order))


def brier(target: Target, probabilities: Probabilities) -> float:
    """Mean of the squared distances of all classes' probabilities from 0 and 1; from 0 to 2. NaN without utterances."""
    target, probabilities = _known(target, probabilities)
    if len(target) == 0:
        return float("nan")
    return float(((probabilities - np.eye(probabilities.shape[1])[target]) ** 2).sum(1).mean())


def nll(target: Target, probabilities: Probabilities) -> float:
    """Mean of minus the logarithm of the target's probability, in nats. NaN without utterances."""
    target, probabilities = _known(target, probabilities)
    if len(target) == 0:
        return float("nan")
    return float(-np.log(probabilities[np.arange(len(target)), target].clip(min=LEAST_PROBABILITY)).mean())


CALIBRATION: Mapping[str, Callable[[Target, Probabilities], float]] = {"ece": ece, "brier": brier, "nll": nll}
