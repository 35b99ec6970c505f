"""Which epochs' weights a run keeps, by their scores on validation: pure functions of the scores so far."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from emorec.config.schema import ModelConfig

Scores = Mapping[int, float]  # {epoch: score, the higher the better} of the epochs with finite results, in order


class Selection(ABC):
    """A rule by which epochs are chosen."""

    @abstractmethod
    def chosen(self, scores: Scores) -> tuple[int, ...]:
        """The epochs whose mean weights the run keeps if training ends now; none only where there are no scores."""

    def needed(self, scores: Scores) -> set[int]:
        """The epochs whose weights may still be chosen, now or after further epochs."""
        return set(self.chosen(scores))


def best(scores: Scores) -> tuple[int, ...]:
    """The epoch with the highest score, of equal ones the first."""
    return (max(scores, key=scores.__getitem__),) if scores else ()


@dataclass(frozen=True)
class Best(Selection):
    """The best epoch."""

    def chosen(self, scores: Scores) -> tuple[int, ...]:
        return best(scores)


@dataclass(frozen=True)
class Average(Selection):
    """The last `count` epochs: their mean weights (Izmailov et al. 2018, arXiv 1803.05407, with equal rates)."""

    count: int

    def chosen(self, scores: Scores) -> tuple[int, ...]:
        return tuple(scores)[-self.count :]


@dataclass(frozen=True)
class Smoothed(Selection):
    """The best epoch by the mean score of the `window` epochs around it; at both ends there are fewer."""

    window: int

    def _means(self, scores: Scores) -> dict[int, float]:
        half = self.window // 2
        near = {epoch: [scores[other] for other in scores if abs(other - epoch) <= half] for epoch in scores}
        return {epoch: sum(values) / len(values) for epoch, values in near.items()}

    def chosen(self, scores: Scores) -> tuple[int, ...]:
        return best(self._means(scores))

    def needed(self, scores: Scores) -> set[int]:
        means = self._means(scores)
        settled = {epoch: mean for epoch, mean in means.items() if epoch + self.window // 2 <= max(scores)}
        return {*best(settled), *(epoch for epoch in means if epoch not in settled)}


def selection_of(settings: ModelConfig) -> Selection:
    """The rule that a config asks for."""
    match settings.selection:
        case "best":
            return Best()
        case "last":
            return Average(1)
        case "smoothed":
            return Smoothed(settings.smoothed_over)
        case "average_last_k":
            return Average(settings.average_last)
