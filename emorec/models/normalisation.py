"""Standardisation of features by statistics of the training split, kept in the model, or of each speaker."""

import torch
from torch import Tensor, nn

from emorec.errors import UserError

KINDS = ("none", "train", "speaker")
CLIP = 10.0  # standard deviations; an outlier of another recording must not drown all other features


def scale_of(deviation: Tensor) -> Tensor:
    """The factor of a standard deviation; a constant feature is only centred."""
    return torch.where(deviation > 1e-8, 1 / deviation.clamp_min(1e-8), 1.0)


class Normalisation(nn.Module):
    """(x - mean) / standard deviation, cut at ±10; nothing for "none".

    The statistics are those of the training split's frames, or with "speaker" those of the speaker's own frames, which
    come with the batch: no label is needed to compute them. A row without statistics of its speaker takes those of the
    training split.

    Args:
        kind: "none", "train" or "speaker".
        dim: D of the features.
    """

    def __init__(self, *, kind: str, dim: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"expected model.normalisation in {KINDS}, got {kind!r}")
        self.kind = kind
        self.mean: Tensor
        self.scale: Tensor
        if kind != "none":
            self.register_buffer("mean", torch.zeros(dim))
            self.register_buffer("scale", torch.ones(dim))

    def fit(self, mean: Tensor, deviation: Tensor) -> None:
        """Takes mean and standard deviation, each (D,), of the training split."""
        if self.kind != "none":
            self.mean.copy_(mean)
            self.scale.copy_(scale_of(deviation))

    def forward(self, features: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Standardises features (B, T, D) by mean and standard deviation (B, 2, D) of the speakers."""
        if self.kind == "none":
            return features
        mean, scale = self.mean, self.scale
        if self.kind == "speaker" and statistics is not None:
            own_mean, deviation = statistics[:, :1], statistics[:, 1:]  # (B, 1, D)
            is_unknown = own_mean.isnan()
            mean, scale = mean.where(is_unknown, own_mean), scale.where(is_unknown, scale_of(deviation))
        return ((features - mean) * scale).clamp(-CLIP, CLIP)
