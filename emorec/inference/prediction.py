"""What a run says about a clip, or about a segment of a recording."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emorec.datasets.utterance import Task


@dataclass(frozen=True)
class Prediction:
    """What a run says about one clip.

    Attributes:
        id: of the clip: its path, or as its table says.
        predicted: the most probable class, or the value; `None` where nothing of the clip can be used.
        probabilities: {class: its probability}; empty for regression.
        modalities: those that were used.
        problems: {modality: why it could not be used}.
        start: of the segment, seconds in the file; `None` for the start of the file.
        end: of the segment, seconds in the file; `None` for the end of the file.
        text: what was read, given or transcribed; `None` where there is none.
    """

    id: str
    predicted: str | float | None
    probabilities: dict[str, float]
    modalities: tuple[str, ...]
    problems: dict[str, str]
    start: float | None = None
    end: float | None = None
    text: str | None = None

    @property
    def confidence(self) -> float | None:
        """The probability of the predicted class."""
        return max(self.probabilities.values(), default=None)

    def values(self, task: Task) -> list[float]:
        """The C probabilities, or the one value, of a prediction that has them."""
        if task.kind == "regression":
            assert isinstance(self.predicted, float)
            return [self.predicted]
        return [self.probabilities[name] for name in task.labels]


def prediction_of(item: Prediction, task: Task, values: Sequence[float]) -> Prediction:
    """A prediction with other probabilities (C,), or with another value (1,)."""
    if task.kind == "regression":
        return replace(item, predicted=float(values[0]))
    probabilities = dict(zip(task.labels, map(float, values), strict=True))
    return replace(item, probabilities=probabilities, predicted=max(probabilities, key=probabilities.__getitem__))
