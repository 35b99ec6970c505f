"""The contracts of losses."""

from abc import ABC, abstractmethod
from functools import reduce
from operator import add
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.batch import Batch, ModelOutput
from emorec.draws import keys_of, mixed
from emorec.losses.class_weights import Weighting, weigh_classes


class Loss(nn.Module, ABC):
    """Named scalars of one batch.

    Class attributes:
        kind: of the tasks that it is for: "classification", "regression", or "self_supervised" for none of a corpus.
        trains_head: whether it trains the head; else it needs another loss beside it.
        mixes: whether the loss of a mixture of two utterances is that of both targets, each by its share.
        needs_teacher: whether it compares with the predictions of another run.
        reads_modality_logits: whether it reads logits of single modalities, which late fusions give.
        reads_votes: whether it reads the raters' votes.
        ordinal: whether the head is one of ordered classes.
        detaches_head: whether the head is trained on vectors through which no gradient flows.

    Args:
        task: the task whose logits and targets are compared.
        weights: {name of a scalar: its weight in the sum}; 1 for names that are not given.
    """

    kind: ClassVar[Literal["classification", "regression", "self_supervised"]]
    trains_head: bool = True
    detaches_head: bool = False
    ordinal: bool = False
    needs_teacher: bool = False
    reads_modality_logits: bool = False
    reads_votes: bool = False
    mixes: bool = True

    def __init__(self, *, task: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.task = task
        self.weights = dict(weights or {})

    def fit(self, class_counts: Tensor) -> None:
        """Takes what the loss needs from the training split: `class_counts` (C,), the utterances of each class."""

    def views(self, batch: Batch) -> Batch:
        """What the model reads of a batch: by default each utterance once."""
        return batch

    @abstractmethod
    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """{name: scalar}; utterances without a target do not count."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of all scalars, the fusion's own among them."""
        weights = {name: self.weights.get(name, 1.0) for name in losses}
        return reduce(add, [value if weights[name] == 1 else value * weights[name] for name, value in losses.items()])


class ClassificationLoss(Loss):
    """A loss of logits (B, C) against class numbers (B,).

    Args:
        class_weights: "none", "inverse" or "effective_number"; `fit` makes `class_weight` (C,) of it, or `None`.
    """

    kind = "classification"

    def __init__(
        self, *, task: str, class_weights: Weighting = "none", weights: dict[str, float] | None = None
    ) -> None:
        super().__init__(task=task, weights=weights)
        self.class_weights = class_weights
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", None, persistent=False)

    def fit(self, class_counts: Tensor) -> None:
        self.class_weight = weigh_classes(class_counts, self.class_weights)


class RegressionLoss(Loss):
    """A loss of predicted values (B, 1) against targets (B,)."""

    kind = "regression"

    @abstractmethod
    def compare(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """{name: scalar} for predictions and targets (N,), N ≥ 1."""

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        known = batch.target_mask[self.task]
        predicted = output.logits[self.task].float().squeeze(1)  # (B, 1) -> (B,)
        if not bool(known.any()):
            known, target = torch.ones_like(known), predicted.detach()  # a loss of 0 without gradient
        else:
            target = batch.targets[self.task]
        return self.compare(predicted[known], target[known])


class ViewLoss(Loss):
    """A loss of the embeddings of two augmented views of each utterance; it reads no targets.

    In training the views of an utterance depend on (seed, epoch, id), in evaluation on its id alone.

    Args:
        dim: D, the width of the embeddings.
    """

    kind = "self_supervised"

    def __init__(self, *, task: str, dim: int, weights: dict[str, float] | None = None) -> None:
        super().__init__(task=task, weights=weights)
        self.dim = dim

    @abstractmethod
    def compare(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """{name: scalar} for embeddings (B, D) of the first and the second views of B utterances, in float32."""

    def views(self, batch: Batch) -> Batch:
        """The first views of all utterances, then the second ones."""
        draw = keys_of(batch.id).to(batch.speaker.device) if batch.draw is None else batch.draw
        return batch.repeated([draw, mixed(draw + 1)])

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        first, second = output.logits[self.task].float().chunk(2)
        return self.compare(first, second)
