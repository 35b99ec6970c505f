"""Concatenation, then a deep network."""

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import perceptron


class Deep(Fusion):
    """Concatenates the vectors of the modalities, zero for a missing one, and applies several layers.

    It is the early fusion that studies of emotion compare with (such as Zadeh et al. 2017, arXiv 1707.07250, EF).

    Args:
        depth: number of the layers.
        dropout: before each layer and after the last.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        depth: PositiveCount = 3,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        widths = [sum(dims.values()), *[hidden] * depth]
        layers = [perceptron(before, hidden, dropout) for before in widths[:-1]]
        self.layers = nn.Sequential(*layers, Dropout(dropout))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        return FusionOutput(fused=self.layers(torch.cat(list(vectors.values()), dim=1)), vectors=vectors)
