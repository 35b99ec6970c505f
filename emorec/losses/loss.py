"""The contracts of losses."""

from abc import ABC, abstractmethod
from functools import reduce
from operator import add
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.batch import Batch, ModelOutput
from emorec.losses.class_weights import Weighting, weigh_classes


class Loss(nn.Module, ABC):
    """Named scalars of one batch.

    Class attributes:
        kind: of the tasks that it is for: "classification" or "regression".

    Args:
        task: the task whose logits and targets are compared.
        weights: {name of a scalar: its weight in the sum}; 1 for names that are not given.
    """

    kind: ClassVar[Literal["classification", "regression"]]

    def __init__(self, *, task: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.task = task
        self.weights = dict(weights or {})

    def fit(self, class_counts: Tensor) -> None:
        """Takes what the loss needs from the training split: `class_counts` (C,), the utterances of each class."""

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

    kind: ClassVar[Literal["classification", "regression"]] = "classification"

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

    kind: ClassVar[Literal["classification", "regression"]] = "regression"

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
