"""The base class of fusions."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from emorec.batch import FusionOutput
from emorec.fusion.pooling import POOLINGS, Pooling


class Fusion(nn.Module, ABC):
    """Fuses the sequences of all modalities into one vector for each utterance.

    Args:
        dims: {modality: D}, in the order of the modalities.
        hidden: H of the fused vector.
        pooling: pooling over time, a key of `POOLINGS`.
    """

    def __init__(self, *, dims: dict[str, int], hidden: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.dims = dict(dims)
        self.hidden = hidden
        self.pool = nn.ModuleDict({modality: POOLINGS[pooling](dim) for modality, dim in dims.items()})

    def forward(self, features: dict[str, Tensor], mask: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        """Fuses a batch.

        Args:
            features: {modality: (B, T, D)}.
            mask: {modality: (B, T)}, true where there is data.
            present: {modality: (B,)}, true where the utterance has the modality.
        """
        vectors = {
            modality: self.pool[modality](features[modality], mask[modality] & present[modality][:, None])
            for modality in self.dims
        }
        return self.fuse(vectors, present)

    @abstractmethod
    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        """Fuses vectors {modality: (B, D)}, zero where missing; `present` is {modality: (B,)}."""

    def stacked(self, present: dict[str, Tensor]) -> Tensor:
        """`present` as a tensor (B, M), in the order of the modalities."""
        return torch.stack([present[modality] for modality in self.dims], dim=1)
