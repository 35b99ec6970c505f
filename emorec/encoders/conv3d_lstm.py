"""A network of convolutions over space and time under an LSTM, trained from scratch."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from emorec.encoders.networks import NetworkPart
from emorec.encoders.pixel_lstm import PixelLstm, PixelLstmPart

HALVES_TIME = (2, 3)  # the numbers of the blocks that do, from 1


@dataclass(kw_only=True, eq=False)
class Conv3dLstm(PixelLstm):
    """Convolutions over space and time (C3D, Tran et al. 2015, arXiv 1412.0767), then an LSTM; see `PixelLstm`.

    Smaller than C3D, with one convolution in each block, normalisation, means instead of maxima, and the LSTM instead
    of layers that are fully connected. The second and the third block halve time as well.
    """

    version: ClassVar[int] = 1

    def trained(self) -> NetworkPart:
        numbers = range(1, len(self.channels) + 1)
        return Conv3dLstmPart(self, [(2 if number in HALVES_TIME else 1, 2, 2) for number in numbers])


class Conv3dLstmPart(PixelLstmPart):
    """The network of `Conv3dLstm`: pixels (N, T, S · S · 3) to frames (N, ⌈T / 4⌉, hidden)."""

    def vectors(self, pixels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = pixels.transpose(1, 2)  # (N, 3, T, S, S)
        for block in self.blocks:
            hidden, lengths = block(hidden, lengths)
        return hidden.mean((3, 4)).transpose(1, 2), lengths  # (N, T', channels)
