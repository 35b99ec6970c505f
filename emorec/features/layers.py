"""Features of several layers of one encoder, read side by side."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from emorec.features.reader import FeatureReader


class LayeredReader:
    """Reads what a `FeatureReader` reads, with the features of L layers side by side: (B, T, L · D).

    Args:
        readers: one for each layer, over the same places.
    """

    def __init__(self, readers: Sequence[FeatureReader]) -> None:
        self.readers = tuple(readers)
        first = self.readers[0]
        self.present, self.length, self.dtype = first.present, first.length, first.dtype
        self.dim = sum(reader.dim for reader in self.readers)

    def gather(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """As `FeatureReader.gather`."""
        values, masks = zip(*(reader.gather(places) for reader in self.readers), strict=True)
        return torch.cat(values, dim=2), masks[0]

    def batches(self, places: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `FeatureReader.batches`."""
        for layers in zip(*(reader.batches(places, batch_size) for reader in self.readers), strict=True):
            yield torch.cat([values for values, _ in layers], dim=2), layers[0][1]
