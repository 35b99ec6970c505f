"""Late fusion: each modality classifies by itself, and the logits are averaged."""

from typing import Literal

import torch
from torch import Tensor, nn

from emorec.annotations import NonNegative, PositiveCount, Share
from emorec.batch import MODALITIES, FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import perceptron


class WeightedLogits(Fusion):
    """The weighted mean of the logits that each modality gives, over the available ones; the model has no other head.

    `fused` is the same mean of the vectors that the logits are computed from.

    Args:
        outputs: C, number of the logits.
        weights: "equal", "learned", which begin equal and are a softmax over the available modalities, or
            {modality: weight}, of which at least one is above 0.
        dropout: of the vectors, and before the logits.
    """

    classifies = True

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        outputs: PositiveCount,
        pooling: Pooling = "mean",
        weights: Literal["equal", "learned"] | dict[str, NonNegative] = "learned",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        self.networks = nn.ModuleDict({modality: perceptron(dim, hidden, dropout) for modality, dim in dims.items()})
        self.dropout = Dropout(dropout)
        self.heads = nn.ModuleDict({modality: nn.Linear(hidden, outputs) for modality in dims})
        self.scores: nn.Parameter | None = None
        given = torch.ones(len(dims))
        if weights == "learned":
            self.scores = nn.Parameter(torch.zeros(len(dims)))
        elif isinstance(weights, dict):
            given = torch.tensor(self._given(weights))
        self.register_buffer("given", given, persistent=False)
        self.given: Tensor

    def _given(self, weights: dict[str, float]) -> list[float]:
        """The configured weights, in the order of the modalities."""
        if unknown := sorted(weights.keys() - set(MODALITIES)):
            raise UserError(f"fusion.weights: expected {', '.join(MODALITIES)}, got {', '.join(unknown)}")
        if missing := [modality for modality in self.dims if not weights.get(modality)]:
            raise UserError(f"fusion.weights: expected a weight above 0 for each modality, got none for {missing[0]}")
        return [float(weights[modality]) for modality in self.dims]

    def start_at(self, value: float) -> None:
        """Sets the biases, so that training starts near a value such as the targets' mean."""
        for head in self.heads.values():
            nn.init.constant_(head.bias, value)  # type: ignore[arg-type]

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        hidden = {name: self.dropout(self.networks[name](vector)) for name, vector in vectors.items()}  # (B, H)
        logits = {name: self.heads[name](vector) for name, vector in hidden.items()}  # (B, C)
        weights = self._weights(present)  # (B, M)
        fused, decided = (
            torch.einsum("bm,bmd->bd", weights, torch.stack(list(values.values()), dim=1))
            for values in (hidden, logits)
        )
        return FusionOutput(fused=fused, vectors=vectors, logits=logits, decided=decided)

    def _weights(self, present: dict[str, Tensor]) -> Tensor:
        """(B, M), 0 for a missing modality, with sum 1."""
        available = self.stacked(present)
        weights = available * (self.given if self.scores is None else self.scores.exp())
        return weights / weights.sum(1, keepdim=True)
