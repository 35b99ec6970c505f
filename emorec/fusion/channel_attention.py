"""Concatenation with attention to its channels."""

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import perceptron


class ChannelAttention(Fusion):
    """The vectors of the modalities side by side, each channel scaled by a gate that a small network computes.

    The gates are squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507) over the vectors, which are pooled over time
    already. A missing modality is zero, before and after the gates.

    Args:
        reduction: by which factor the network of the gates is narrower than the vectors.
        dropout: before and after the last layer.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        reduction: PositiveCount = 8,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        channels = sum(dims.values())
        narrow = max(1, channels // reduction)
        self.gate = nn.Sequential(nn.Linear(channels, narrow), nn.GELU(), nn.Linear(narrow, channels), nn.Sigmoid())
        self.layer = nn.Sequential(perceptron(channels, hidden, dropout), Dropout(dropout))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        joined = torch.cat(list(vectors.values()), dim=1)  # (B, ΣD)
        return FusionOutput(fused=self.layer(joined * self.gate(joined)), vectors=vectors)
