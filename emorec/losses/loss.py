"""The contracts of losses."""

from abc import ABC, abstractmethod
from functools import reduce
from operator import add
from typing import ClassVar

import torch
from torch import Tensor, nn

from emorec.batch import Batch, ConfigurationError, ModelOutput
from emorec.losses.class_weights import weigh_classes


class Loss(nn.Module, ABC):
    """Named scalars of one batch.

    Class attributes:
        kind: of the tasks it is for: "classification" or "regression".

    Args:
        task: the task whose logits and targets are compared.
        weights: {name of a scalar: its weight in the sum}; 1 for names that are not given.
    """

    kind: ClassVar[str]

    def __init__(self, *, task: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.task = task
        self.weights = dict(weights or {})
        wrong = {name: value for name, value in self.weights.items() if not isinstance(value, int | float)}
        if wrong:
            raise ConfigurationError(f"expected loss.weights to be numbers, got {wrong}")

    @abstractmethod
    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """{name: scalar}; utterances without a target do not count."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of all scalars, the fusion's own among them."""
        weights = {name: self.weights.get(name, 1.0) for name in losses}
        parts = [value if weights[name] == 1 else value * weights[name] for name, value in losses.items()]
        return reduce(add, parts)


class ClassificationLoss(Loss):
    """A loss of logits (B, C) against class numbers.

    Args:
        task: the task whose logits and targets are compared.
        class_counts: (C,) utterances a class in the training split.
        class_weights: "none", "inverse" or "effective_number"; `class_weight` (C,) or `None` is made of it.
        weights: {name of a scalar: its weight in the sum}; 1 for names that are not given.
    """

    kind: ClassVar[str] = "classification"

    def __init__(
        self,
        *,
        task: str,
        class_counts: Tensor,
        class_weights: str = "none",
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, weights=weights)
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", weigh_classes(class_counts, class_weights), persistent=False)


class RegressionLoss(Loss):
    """A loss of predicted values (B, 1) against targets (B,)."""

    kind: ClassVar[str] = "regression"

    @abstractmethod
    def compare(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """{name: scalar} for predictions and targets (N,), N ≥ 1."""

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        known = batch.target_mask[self.task]
        predicted = output.logits[self.task].float().squeeze(1)  # (B, 1) -> (B,)
        if not bool(known.any()):
            known, target = torch.ones_like(known), predicted.detach()  # nothing to learn from: no slope
        else:
            target = batch.targets[self.task]
        return self.compare(predicted[known], target[known])
