"""Standardisation of features, fitted on the training split, kept in the model."""

import torch
from torch import Tensor, nn

from emorec.errors import UserError

KINDS = ("none", "train")
CLIP = 10.0  # standard deviations; an outlier of another recording must not drown all other features


class Normalisation(nn.Module):
    """(x - mean) / standard deviation of the training split's frames, cut at ±10; nothing for "none".

    Args:
        kind: "none" or "train".
        dim: D of the features.
    """

    def __init__(self, *, kind: str, dim: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"expected model.normalisation in {KINDS}, got {kind!r}")
        self.kind = kind
        self.mean: Tensor
        self.scale: Tensor
        if kind == "train":
            self.register_buffer("mean", torch.zeros(dim))
            self.register_buffer("scale", torch.ones(dim))

    def fit(self, mean: Tensor, deviation: Tensor) -> None:
        """Takes mean and standard deviation, each (D,), of the training split; a constant feature is only centred."""
        if self.kind == "train":
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(deviation > 1e-8, 1 / deviation.clamp_min(1e-8), 1.0))

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "none":
            return features
        return ((features - self.mean) * self.scale).clamp(-CLIP, CLIP)
