"""Gated fusion."""

import torch
from torch import Tensor, nn

from emorec.annotations import Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling


class Gated(Fusion):
    """A weighted sum of the modalities, with gates that compute the weights of each unit from all modalities.

    After Arevalo et al. (2017), "Gated multimodal units", arXiv 1702.01992; for any number of modalities, the gates are
    a softmax over the available ones.

    Args:
        dropout: dropout of the vectors of the modalities.
    """

    def __init__(self, *, dims: dict[str, int], hidden: int, pooling: Pooling = "mean", dropout: Share = 0.0) -> None:
        super().__init__(dims=dims, hidden=hidden, pooling=pooling)
        self.dropout = Dropout(dropout)
        self.values = nn.ModuleDict({modality: nn.Linear(dim, hidden) for modality, dim in dims.items()})
        self.gate = nn.Linear(sum(dims.values()), hidden * len(dims))

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        dropped = {modality: self.dropout(vector) for modality, vector in vectors.items()}
        values = torch.stack([torch.tanh(self.values[name](vector)) for name, vector in dropped.items()], dim=1)
        gates = self.gate(torch.cat(list(dropped.values()), dim=1))
        gates = gates.view(gates.shape[0], len(vectors), self.hidden)  # (B, M H) -> (B, M, H)
        gates = gates.masked_fill(~self.stacked(present)[:, :, None], torch.finfo(gates.dtype).min).softmax(1)
        return FusionOutput(fused=(gates * values).sum(1), vectors=vectors)
