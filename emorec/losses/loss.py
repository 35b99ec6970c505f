"""The contract of a loss."""

from abc import ABC, abstractmethod
from functools import reduce
from operator import add

from torch import Tensor, nn

from emorec.batch import Batch, ModelOutput
from emorec.losses.class_weights import weigh_classes


class Loss(nn.Module, ABC):
    """Named scalars of one batch.

    Args:
        task: the task whose logits and targets are compared.
        class_counts: (C,) utterances a class in the training split.
        class_weights: "none", "inverse" or "effective_number"; `class_weight` (C,) or `None` is made of it.
        weights: {name of a scalar: its weight in the sum}; 1 for names that are not given.
    """

    def __init__(
        self,
        *,
        task: str,
        class_counts: Tensor,
        class_weights: str = "none",
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", weigh_classes(class_counts, class_weights), persistent=False)
        self.weights = dict(weights or {})

    @abstractmethod
    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """{name: scalar}; utterances without a target do not count."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of all scalars, the fusion's own among them."""
        weights = {name: self.weights.get(name, 1.0) for name in losses}
        parts = [value if weights[name] == 1 else value * weights[name] for name, value in losses.items()]
        return reduce(add, parts)
