"""From the fused vector to a task's logits."""

from typing import cast

from torch import Tensor, nn


class Head(nn.Module):
    """A linear layer with dropout before it.

    Args:
        hidden: H of the fused vector.
        outputs: C, the number of classes (or 1 for regression).
        dropout: before the layer.
        start: where its outputs lie at first, such as the targets' mean; `None` for torch's own start.
    """

    def __init__(self, *, hidden: int, outputs: int, dropout: float, start: float | None = None) -> None:
        super().__init__()
        layer = nn.Linear(hidden, outputs)
        if start is not None:
            nn.init.constant_(layer.bias, start)
        self.layers = nn.Sequential(nn.Dropout(dropout), layer)

    def forward(self, fused: Tensor) -> Tensor:
        return cast(Tensor, self.layers(fused))  # (B, H) -> (B, C)
