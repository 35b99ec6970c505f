"""A network of convolutions over space and time under an LSTM, trained from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import ChannelAttention, ConvolutionBlock
from emorec.encoders.networks import NetworkPart, PixelNetwork
from emorec.encoders.pixels import scaled
from emorec.encoders.recurrent import run_lstm

HALVES_TIME = (2, 3)  # the numbers of the blocks that do, from 1


@dataclass(kw_only=True, eq=False)
class Conv3dLstm(PixelNetwork):
    """Convolutions over space and time (C3D, Tran et al. 2015, arXiv 1412.0767), then an LSTM.

    Smaller than C3D, with one convolution in each block, normalisation, means instead of maxima, and the LSTM instead
    of layers that are fully connected.

    Args:
        channels: of each block; a block halves height and width, the second and the third one time as well.
        hidden: D, units of the LSTM.
        attention: of each block: "none", "se" (channels) or "cbam" (channels and places).
        dropout: before and after the LSTM.
        pooling: over time: "mean", "mean_std", "last", or "none" for all frames.
    """

    version: ClassVar[int] = 1

    channels: list[PositiveCount] = field(default_factory=lambda: [16, 32, 64, 128])
    hidden: PositiveCount = 128
    attention: ChannelAttention = "none"
    dropout: Share = 0.3
    pooling: Literal["none", "mean", "mean_std", "last"] = "mean"

    def trained(self) -> NetworkPart:
        return Conv3dLstmPart(
            size=self.media.size,
            channels=self.channels,
            hidden=self.hidden,
            attention=self.attention,
            dropout=self.dropout,
            pooling=self.pooling,
        )


class Conv3dLstmPart(NetworkPart):
    """The network of `Conv3dLstm`: pixels (N, T, S · S · 3) to frames (N, ⌈T / 4⌉, hidden)."""

    def __init__(
        self,
        *,
        size: int,
        channels: Sequence[int],
        hidden: int,
        attention: ChannelAttention,
        dropout: float,
        pooling: str,
    ) -> None:
        super().__init__(pooling=pooling)
        self.size = size
        self.blocks = nn.ModuleList(
            ConvolutionBlock(*sizes, pool=(2 if number in HALVES_TIME else 1, 2, 2), attention=attention)
            for number, sizes in enumerate(zip([3, *channels[:-1]], channels, strict=True), start=1)
        )
        self.lstm = nn.LSTM(channels[-1], hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    @property
    def frame_dim(self) -> int:
        return self.lstm.hidden_size

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = scaled(values, self.size).transpose(1, 2)  # (N, 3, T, S, S)
        for block in self.blocks:
            hidden, lengths = block(hidden, lengths)
        vectors = hidden.mean((3, 4)).transpose(1, 2)  # (N, T', channels)
        return self.dropout(run_lstm(self.lstm, self.dropout(vectors), lengths)), lengths
