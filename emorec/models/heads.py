"""From the fused vector to a task's logits."""

from typing import cast

from torch import Tensor, nn


class Head(nn.Module):
    """A linear layer with dropout before it.

    Args:
        hidden: H of the fused vector.
        outputs: C, the number of classes (or of regressed dimensions).
        dropout: before the layer.
    """

    def __init__(self, *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def forward(self, fused: Tensor) -> Tensor:
        return cast(Tensor, self.layers(fused))  # (B, H) -> (B, C)
