"""One sequence out of the features of several layers."""

import torch
from torch import Tensor, nn


class LayerSum(nn.Module):
    """A learned weighted sum over layers (Peters et al. 2018, arXiv 1802.05365; Yang et al. 2021, "SUPERB").

    The weights are a softmax, equal at first.

    Args:
        layers: L.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(layers))

    def forward(self, features: Tensor) -> Tensor:
        side_by_side = features.view(*features.shape[:2], len(self.scores), -1)  # (B, T, L · D) -> (B, T, L, D)
        return torch.einsum("l,btld->btd", self.scores.softmax(0), side_by_side)
