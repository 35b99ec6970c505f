"""Features of several layers of one encoder, concatenated."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from emorec.features.reader import FeatureReader


class LayeredReader:
    """A `FeatureReader` of the features of L layers, each with its reader of the same utterances, as (B, T, L · D)."""

    def __init__(self, readers: Sequence[FeatureReader]) -> None:
        self.readers = tuple(readers)
        first = self.readers[0]
        self.present, self.length, self.dtype = first.present, first.length, first.dtype
        self.dim = sum(reader.dim for reader in self.readers)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureReader.gather`."""
        values, masks = zip(*(reader.gather(indices) for reader in self.readers), strict=True)
        return torch.cat(values, dim=2), masks[0]

    def batches(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """See `FeatureReader.batches`."""
        for layers in zip(*(reader.batches(indices, sizes) for reader in self.readers), strict=True):
            yield torch.cat([values for values, _ in layers], dim=2), layers[0][1]
