"""The base class of fusions."""

from abc import ABC, abstractmethod
from typing import ClassVar

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
        width: of the sequences that `exchange` returns; `None` where it leaves them as they are.
    """

    unexportable: ClassVar[str] = ""  # why it cannot be exported as a graph; "" where it can
    classifies = False  # whether it gives the logits itself, so that the model has no head

    def __init__(
        self, *, dims: dict[str, int], hidden: int, pooling: Pooling = "mean", width: int | None = None
    ) -> None:
        super().__init__()
        self.dims = dict(dims)
        self.hidden = hidden
        self.pool = nn.ModuleDict({modality: POOLINGS[pooling](width or dim) for modality, dim in dims.items()})

    def forward(self, features: dict[str, Tensor], mask: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        """Fuses a batch.

        Args:
            features: {modality: (B, T, D)}.
            mask: {modality: (B, T)}, true where there is data.
            present: {modality: (B,)}, true where the utterance has the modality.
        """
        masks = {modality: mask[modality] & present[modality][:, None] for modality in self.dims}
        sequences = self.exchange({modality: features[modality] for modality in self.dims}, masks)
        vectors = {modality: self.pool[modality](values, masks[modality]) for modality, values in sequences.items()}
        return self.fuse(vectors, present)

    def exchange(self, features: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
        """Lets the sequences (B, T, D) of the modalities inform each other, before they are pooled over time.

        `mask` is {modality: (B, T)}, false in all of a missing modality's row.
        """
        return features

    @abstractmethod
    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        """Fuses vectors {modality: (B, D)}, zero where missing; `present` is {modality: (B,)}, true once in a row."""

    def stacked(self, present: dict[str, Tensor]) -> Tensor:
        """`present` as a tensor (B, M), in the order of the modalities."""
        return torch.stack([present[modality] for modality in self.dims], dim=1)

    def mean(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """(B, D), the mean of vectors {modality: (B, D)}, which are zero where missing, over the available ones."""
        count = self.stacked(present).sum(1, keepdim=True)
        return torch.stack(list(vectors.values()), dim=1).sum(1) / count.clamp_min(1)
