"""Focal loss."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from emorec.annotations import NonNegative
from emorec.batch import Batch, ModelOutput
from emorec.losses.class_weights import Weighting
from emorec.losses.loss import ClassificationLoss


def focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """Mean of α_y (1 - p_y)^γ · -log p_y (Lin et al. 2017, "Focal loss for dense object detection").

    Args:
        logits: (B, C).
        target: (B,) class numbers; -100 does not count.
        gamma: γ ≥ 0; 0 is cross-entropy.
        alpha: (C,) class weights.
    """
    entropy = cross_entropy(logits, target, reduction="none")  # (B,), 0 where the target is -100
    doubt = (-torch.expm1(-entropy)).clamp_min(1e-8)  # 1 - p_y; above 0, where a root has a gradient
    value = doubt**gamma * entropy
    counts = target >= 0
    if alpha is not None:
        value = value * alpha[target.clamp_min(0)]
    return (value * counts).sum() / counts.sum().clamp_min(1)


class Focal(ClassificationLoss):
    """Focal loss with optional class weights.

    Args:
        gamma: γ; the larger it is, the less easy utterances count.
    """

    def __init__(
        self,
        *,
        task: str,
        gamma: NonNegative = 2.0,
        class_weights: Weighting = "none",
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(task=task, class_weights=class_weights, weights=weights)
        self.gamma = gamma

    def forward(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        logits = output.logits[self.task].float()  # (B, C)
        return {"focal": focal_loss(logits, batch.targets[self.task], self.gamma, self.class_weight)}
