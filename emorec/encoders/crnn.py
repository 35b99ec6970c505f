"""A convolutional recurrent network of log mel bands, trained from scratch."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import ChannelAttention, ConvolutionBlock, halved
from emorec.encoders.networks import LogMelNetwork, NetworkPart
from emorec.encoders.recurrent import run_lstm


@dataclass(kw_only=True, eq=False)
class Crnn(LogMelNetwork):
    """Blocks of convolutions, then a bidirectional LSTM (after Çakır et al. 2017, arXiv 1702.06286).

    Time is pooled beside bands, by the mean instead of the maximum, with GELU, and an LSTM replaces the GRU.

    Args:
        channels: of each block; a block halves time and bands.
        hidden: units of the LSTM in each direction; D = 2 hidden.
        attention: of each block: "none", "se" (channels) or "cbam" (channels and places).
        dropout: after each block and the LSTM.
        pooling: over time: "mean", "mean_std", or "none" for all frames.
    """

    version: ClassVar[int] = 1

    channels: list[PositiveCount] = field(default_factory=lambda: [32, 64, 96])
    hidden: PositiveCount = 64
    attention: ChannelAttention = "none"
    dropout: Share = 0.2
    pooling: Literal["none", "mean", "mean_std"] = "mean_std"

    def trained(self) -> NetworkPart:
        return CrnnPart(self)


class CrnnPart(NetworkPart):
    """The network of `Crnn`: (N, T, bands) to frames (N, ⌈T / 2^blocks⌉, 2 hidden)."""

    def __init__(self, encoder: Crnn) -> None:
        super().__init__(pooling=encoder.pooling, standardised=encoder.bands)
        channels = encoder.channels
        self.blocks = nn.ModuleList(
            ConvolutionBlock(*sizes, pool=(2, 2), attention=encoder.attention, dropout=encoder.dropout)
            for sizes in pairwise([1, *channels])
        )
        bands = halved(encoder.bands, len(channels))
        self.lstm = nn.LSTM(channels[-1] * bands, encoder.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(encoder.dropout)

    @property
    def frame_dim(self) -> int:
        return 2 * self.lstm.hidden_size

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = values[:, None]  # (N, 1, T, bands)
        for block in self.blocks:
            hidden, lengths = block(hidden, lengths)
        frames = hidden.permute(0, 2, 1, 3).flatten(2)  # (N, T', channels · bands')
        return self.dropout(run_lstm(self.lstm, frames, lengths)), lengths
