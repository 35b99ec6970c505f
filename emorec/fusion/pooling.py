"""Pooling of sequences over time."""

from typing import Literal

import torch
from torch import Tensor, nn

from emorec.layers import is_exported


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """(B, D), the mean of a sequence (B, T, D) where the mask (B, T) is true; zero for a row without such frames."""
    if sequence.shape[1] == 1 and not is_exported():
        return sequence.squeeze(1) * mask
    weights = mask[:, :, None].to(sequence.dtype)
    return (sequence * weights).sum(1) / weights.sum(1).clamp_min(1)


class MeanPooling(nn.Module):
    """`masked_mean`; like every pooling it is made for D, which it does not need."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(sequence, mask)


class AttentionPooling(nn.Module):
    """Mean weighted by a learned score of each frame (Lin et al. 2017, arXiv 1703.03130, one head)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, max(1, dim // 2)), nn.Tanh(), nn.Linear(max(1, dim // 2), 1))

    def weights(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(B, T) weights that sum to 1 over the frames of each row; all 0 in an empty row."""
        scores = self.score(sequence).squeeze(-1)  # (B, T)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, 1) * mask

    @staticmethod
    def weighted(sequence: Tensor, weights: Tensor) -> Tensor:
        """(B, D), the weighted sum over frames."""
        return torch.einsum("bt,btd->bd", weights, sequence)

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        return self.weighted(sequence, self.weights(sequence, mask))


class AttentiveStatisticsPooling(nn.Module):
    """Weighted mean and standard deviation with learned weights of the frames, projected back to D by a linear layer.

    Okabe et al. 2018, "Attentive statistics pooling for deep speaker embedding", arXiv 1803.10963; the last layer
    is an addition, so that every pooling keeps the width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = AttentionPooling(dim)
        self.layer = nn.Linear(2 * dim, dim)

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        weights = self.attention.weights(sequence, mask)  # (B, T)
        mean = self.attention.weighted(sequence, weights)  # (B, D)
        variance = self.attention.weighted((sequence - mean[:, None]).square(), weights)
        deviation = variance.clamp_min(1e-6).sqrt()  # a root has no gradient at 0
        pooled: Tensor = self.layer(torch.cat([mean, deviation], dim=1))
        return pooled * mask.any(1, keepdim=True)  # zero for an empty row


Pooling = Literal["mean", "attention", "attentive_statistics"]
POOLINGS: dict[Pooling, type[nn.Module]] = {
    "mean": MeanPooling,
    "attention": AttentionPooling,
    "attentive_statistics": AttentiveStatisticsPooling,
}
