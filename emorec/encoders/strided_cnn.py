"""A small convolutional network of log mel bands whose first convolution is strided, trained from scratch."""

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import ChannelAttention, ConvolutionBlock, halved
from emorec.encoders.log_mel import Duration
from emorec.encoders.networks import LogMelNetwork, NetworkPart


@dataclass(kw_only=True, eq=False)
class StridedCnn(LogMelNetwork):
    """Blocks of convolutions, the first with stride: a frame is all channels of all bands, D = channels · bands / 2^n.

    Where a convolution with stride stands in place of one at full size and its pooling, as in residual networks (He et
    al. 2016, arXiv 1512.03385), the costly first block takes a fraction of the time. There is no recurrent layer: what
    follows, such as a fusion with `pooling=attentive_statistics`, sums the frames up.

    Args:
        stride: frames of which the first convolution keeps one, from 2 stride + 1 of them; it keeps every second band.
        channels: of each block; those after the first halve time and bands by their pooling.
        attention: of each block: "none", "se" (channels) or "cbam" (channels and places).
        dropout: after each block.
        pooling: over time: "mean", "mean_std", or "none" for all frames.
    """

    version: ClassVar[int] = 1

    window: Duration = 0.04
    stride: PositiveCount = 4
    channels: list[PositiveCount] = field(default_factory=lambda: [32, 64, 96])
    attention: ChannelAttention = "none"
    dropout: Share = 0.1
    pooling: Literal["none", "mean", "mean_std"] = "none"

    def trained(self) -> NetworkPart:
        return StridedCnnPart(self)


class StridedCnnPart(NetworkPart):
    """The network of `StridedCnn`: (N, T, bands) to frames (N, T / stride / 2^(blocks - 1), D), rounded up."""

    def __init__(self, encoder: StridedCnn) -> None:
        super().__init__(pooling=encoder.pooling, standardised=encoder.bands)
        channels, stride = encoder.channels, encoder.stride
        block = partial(ConvolutionBlock, attention=encoder.attention, dropout=encoder.dropout)
        stem = block(1, channels[0], kernel=(2 * stride + 1, 5), stride=(stride, 2), pool=(1, 1))
        self.blocks = nn.ModuleList([stem, *(block(*sizes, pool=(2, 2)) for sizes in pairwise(channels))])
        self.width = channels[-1] * halved(encoder.bands, len(channels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    @property
    def frame_dim(self) -> int:
        return self.width

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = values[:, None]  # (N, 1, T, bands)
        for block in self.blocks:
            hidden, lengths = block(hidden, lengths)
        return hidden.permute(0, 2, 1, 3).flatten(2), lengths  # (N, T', channels · bands')
