"""A convolutional network of frames under an LSTM, trained from scratch."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from emorec.encoders.networks import NetworkPart
from emorec.encoders.pixel_lstm import PixelLstm, PixelLstmPart
from emorec.layers import is_exported


@dataclass(kw_only=True, eq=False)
class FrameCnnLstm(PixelLstm):
    """A small convolutional network reads each frame, an LSTM their sequence (LRCN, Donahue et al. 2015, arXiv
    1411.4389); see `PixelLstm`.

    The network is a small one without pretrained weights, with normalisation and a mean over places instead of layers
    that are fully connected.
    """

    version: ClassVar[int] = 1

    def trained(self) -> NetworkPart:
        return FrameCnnLstmPart(self, [(2, 2) for _ in self.channels])


class FrameCnnLstmPart(PixelLstmPart):
    """The network of `FrameCnnLstm`: pixels (N, T, S · S · 3) to frames (N, T, hidden)."""

    def vectors(self, pixels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.mask(pixels, lengths)
        hidden = pixels.flatten(0, 1) if is_exported() else pixels[mask]  # (N · T, 3, S, S), or (ΣT, 3, S, S)
        sides = torch.full((hidden.shape[0],), self.size, device=pixels.device)  # all of a picture is data
        for block in self.blocks:
            hidden, sides = block(hidden, sides)
        means = hidden.mean((2, 3))
        if is_exported():
            return means.reshape(pixels.shape[0], -1, means.shape[1]), lengths  # (N, T, channels)
        vectors = means.new_zeros(*mask.shape, means.shape[1])
        vectors[mask] = means
        return vectors, lengths
