"""From the fused vector to a task's logits, or to the embeddings of views."""

from typing import cast

from torch import Tensor, nn

from emorec.dropout import Dropout
from emorec.losses.ordinal import log_probabilities


class Head(nn.Module):
    """Dropout and a linear layer, from the fused vector (B, `hidden`) to (B, `outputs`): C classes, or 1 value."""

    def __init__(self, *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(Dropout(dropout), nn.Linear(hidden, outputs))

    def start_at(self, value: float) -> None:
        """Sets the bias, so that training starts near a value such as the targets' mean."""
        nn.init.constant_(cast(nn.Linear, self.layers[1]).bias, value)

    def forward(self, fused: Tensor) -> Tensor:
        return cast(Tensor, self.layers(fused))


class OrdinalHead(Head):
    """The same for C = `outputs` ordered classes, with their log probabilities as logits; see `Corn`."""

    def __init__(self, *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__(hidden=hidden, outputs=outputs - 1, dropout=dropout)

    def forward(self, fused: Tensor) -> Tensor:
        return log_probabilities(super().forward(fused).float())


class EmbeddingHead(nn.Module):
    """A perceptron with one hidden layer, from the fused vector (B, `hidden`) to an embedding (B, `dim`).

    It is the projection head of Chen et al. 2020 (arXiv 2002.05709): only what lies before it is used later.
    """

    def __init__(self, *, hidden: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, fused: Tensor) -> Tensor:
        return cast(Tensor, self.layers(fused))
