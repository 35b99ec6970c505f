"""A convolutional network of frames under an LSTM, trained from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import ChannelAttention, ConvolutionBlock
from emorec.encoders.networks import NetworkPart, PixelNetwork
from emorec.encoders.pixels import scaled
from emorec.encoders.recurrent import run_lstm
from emorec.layers import is_exported


@dataclass(kw_only=True, eq=False)
class FrameCnnLstm(PixelNetwork):
    """A small convolutional network reads each frame, an LSTM their sequence (LRCN, Donahue et al. 2015, arXiv
    1411.4389).

    The network is a small one without pretrained weights, with normalisation and a mean over places instead of layers
    that are fully connected.

    Args:
        channels: of each block; a block halves height and width.
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
        return FrameCnnLstmPart(
            size=self.media.size,
            channels=self.channels,
            hidden=self.hidden,
            attention=self.attention,
            dropout=self.dropout,
            pooling=self.pooling,
        )


class FrameCnnLstmPart(NetworkPart):
    """The network of `FrameCnnLstm`: pixels (N, T, S · S · 3) to frames (N, T, hidden)."""

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
            ConvolutionBlock(*sizes, pool=(2, 2), attention=attention)
            for sizes in zip([3, *channels[:-1]], channels, strict=True)
        )
        self.lstm = nn.LSTM(channels[-1], hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    @property
    def frame_dim(self) -> int:
        return self.lstm.hidden_size

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask, pixels = self.mask(values, lengths), scaled(values, self.size)
        hidden = pixels.flatten(0, 1) if is_exported() else pixels[mask]  # (N · T, 3, S, S), or (ΣT, 3, S, S)
        sides = torch.full((hidden.shape[0],), self.size, device=values.device)  # all of a picture is data
        for block in self.blocks:
            hidden, sides = block(hidden, sides)
        means = hidden.mean((2, 3))
        if is_exported():
            vectors = means.reshape(values.shape[0], -1, means.shape[1])  # (N, T, channels)
        else:
            vectors = means.new_zeros(*mask.shape, means.shape[1])
            vectors[mask] = means
        return self.dropout(run_lstm(self.lstm, self.dropout(vectors), lengths)), lengths
