"""From an encoder's features to the model's width."""

from typing import cast

from torch import Tensor, nn

from emorec.dropout import Dropout


class Projection(nn.Module):
    """Dropout, a linear layer and GELU on each frame: (B, T, `dim`) -> (B, T, `hidden`)."""

    def __init__(self, *, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(Dropout(dropout), nn.Linear(dim, hidden), nn.GELU())

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))
