"""A sum of the modalities with weights that a small network computes."""

import torch
from torch import Tensor, nn

from emorec.annotations import Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import perceptron


class AttentionSum(Fusion):
    """The sum of a network's output for each modality, weighted by another one over all of them.

    The weights are one number for each modality, not normalised: no softmax. It is the best fusion of Lian et al.
    2024, "MERBench", arXiv 2401.03429. A missing modality gives the layer zeros and adds nothing.

    Args:
        dropout: before and after the network of each modality.
    """

    def __init__(self, *, dims: dict[str, int], hidden: int, pooling: Pooling = "mean", dropout: Share = 0.0) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        self.networks = nn.ModuleDict(
            {
                modality: nn.Sequential(perceptron(dim, hidden, dropout), Dropout(dropout))
                for modality, dim in dims.items()
            }
        )
        self.score = nn.Sequential(nn.Linear(hidden * len(dims), hidden), nn.GELU(), nn.Linear(hidden, len(dims)))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        values = torch.stack([self.networks[name](vector) for name, vector in vectors.items()], dim=1)  # (B, M, H)
        values = values * self.stacked(present)[:, :, None]
        weights = self.score(values.flatten(1))  # (B, M)
        return FusionOutput(fused=torch.einsum("bm,bmh->bh", weights, values), vectors=vectors)
