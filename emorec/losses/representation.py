"""Losses of the vectors of utterances, beside one that trains the head."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import normalize

from emorec.batch import Batch, ModelOutput
from emorec.layers import at_least_float
from emorec.losses.loss import Loss


class RepresentationLoss(Loss):
    """A loss of the fused vectors (B, H) and the classes (B,) of a batch; it does not train the head.

    With several ranks each compares the utterances of its own batch.

    Args:
        detach_classifier: whether the loss that trains the head trains nothing before it, as then only this one does.
    """

    kind = "classification"
    trains_head = False
    mixes = False

    def __init__(self, *, task: str, detach_classifier: bool = False, weights: dict[str, float] | None = None) -> None:
        super().__init__(task=task, weights=weights)
        self.detaches_head = detach_classifier

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        target = batch.targets[self.task]
        known = target >= 0
        vectors = output.fusion.fused
        with torch.autocast(vectors.device.type, enabled=False):
            return self.compare(at_least_float(vectors[known]), target[known])

    @abstractmethod
    def compare(self, vectors: Tensor, target: Tensor) -> dict[str, Tensor]:
        """{name: scalar} for vectors (B, H) and classes (B,), B ≥ 0, in float32 or wider."""


def mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of values (N,) where `counts` (N,) is true; 0, with a gradient of 0, where it is nowhere."""
    return values.where(counts, 0).sum() / counts.sum().clamp_min(1)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """(N, M), of vectors (N, H) and (M, H)."""
    return normalize(first, dim=1) @ normalize(second, dim=1).T
