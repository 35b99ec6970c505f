"""Concatenation."""

import torch
from torch import Tensor, nn

from emorec.annotations import Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling


class Concat(Fusion):
    """Concatenates the vectors of the modalities, zero for a missing one, and applies a linear layer.

    Args:
        dropout: dropout before and after the layer.
    """

    def __init__(self, *, dims: dict[str, int], hidden: int, pooling: Pooling = "mean", dropout: Share = 0.0) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        self.layer = nn.Sequential(Dropout(dropout), nn.Linear(sum(dims.values()), hidden), nn.GELU(), Dropout(dropout))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        return FusionOutput(fused=self.layer(torch.cat(list(vectors.values()), dim=1)), vectors=vectors)
