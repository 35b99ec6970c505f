"""Which modality carries a decision: exact Shapley values over the subsets of the modalities.

Shapley (1953), "A value for n-person games"; of the inputs of a model, Lundberg and Lee (2017), arXiv 1705.07874. With
three modalities there are seven subsets, so nothing is sampled. A modality that is left out is masked, as where an
utterance lacks it: no value of it is replaced by another. What is known of no modality is the prior.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emorec.cards.card import split_utterances
from emorec.datasets.utterance import Utterance
from emorec.training.missing import subsets, with_modalities

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation

Array = NDArray[np.float64]
Subset = tuple[str, ...]


def shapley_values(worth: Mapping[Subset, Array], players: Sequence[str]) -> dict[str, Array]:
    """{player: its share of worth(all) - worth(none)}; the shares add up to it exactly.

    Args:
        worth: {subset of the players, in their order: an array}, of all subsets, the empty one too.
        players: the names.
    """
    count, shares = len(players), {}
    for player in players:
        others = [name for name in players if name != player]
        total = np.zeros_like(worth[()])
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(others, size):
                joined = tuple(name for name in players if name in (*chosen, player))
                total = total + weight * (worth[joined] - worth[chosen])
        shares[player] = total
    return shares


@dataclass(frozen=True)
class Contributions:
    """What each modality adds to the outputs of N utterances."""

    id: list[str]  # (N,) names
    modalities: list[str]  # of the model
    prior: Array  # (C,) what is predicted of nothing
    prior_is: str  # what the prior is, for readers
    outputs: Array  # (N, C) probabilities, or (N, 1) values, with all modalities
    shares: dict[str, Array]  # {modality: (N, C)}; prior + the sum of the shares = outputs

    def of_class(self, classes: NDArray[np.int64]) -> dict[str, Array]:
        """{modality: (N,)} what it adds to the output of one class (N,) of each utterance."""
        rows = np.arange(len(self.id))
        return {name: share[rows, classes] for name, share in self.shares.items()}


def contributions(evaluation: "Evaluation") -> Contributions:
    """The Shapley values of the modalities for each utterance of a split."""
    modalities = list(evaluation.data.features)
    prior, prior_is = _prior(evaluation)
    worth: dict[Subset, Array] = {}
    names: list[str] = []
    for chosen in subsets(modalities):
        found = _outputs(evaluation, chosen)
        names = names or list(found)
        worth[chosen] = np.stack([found.get(name, prior) for name in names])  # (N, C)
    worth[()] = np.broadcast_to(prior, worth[tuple(modalities)].shape)
    shares = shapley_values(worth, modalities)
    return Contributions(names, modalities, prior, prior_is, worth[tuple(modalities)], shares)


def _outputs(evaluation: "Evaluation", chosen: Subset) -> dict[str, Array]:
    """{id: (C,)} of the utterances that have any of some modalities."""
    batches = list(with_modalities(evaluation.batches(), chosen))
    if not batches:
        return {}
    predictions = evaluation.predict(batches)
    logits = predictions.logits.double()
    values = logits if evaluation.data.task.kind == "regression" else logits.softmax(1)
    return dict(zip(predictions.id, values.numpy(), strict=True))


def _prior(evaluation: "Evaluation") -> tuple[Array, str]:
    """(C,) what is predicted of an utterance of which nothing is known, and what that is."""
    task = evaluation.data.task
    is_own = evaluation.data.manifest.digest == evaluation.record.data.get("corpus")
    known: Sequence[Utterance] = evaluation.data.splits["train"] if is_own else split_utterances(evaluation)
    where = "the training split" if is_own else "the corpus it is evaluated on, since its own was not read"
    targets: list[Any] = [item.targets[task.name] for item in known]
    if task.kind == "regression":
        return np.array([np.mean(targets)]), f"the mean target of {where}"
    counts = np.bincount(np.array(targets), minlength=len(task.labels))
    return counts / counts.sum(), f"the shares of the classes in {where}"
