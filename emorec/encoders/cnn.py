"""A convolutional network of log mel bands, trained from scratch."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.convolutions import ChannelAttention, ConvolutionBlock
from emorec.encoders.networks import LogMelNetwork, NetworkPart

KERNELS = ((11, 1), (1, 9), (3, 3))  # of the parallel convolutions: time, bands
TIME_HALVINGS = 3  # later blocks halve the bands alone


@dataclass(kw_only=True, eq=False)
class Cnn(LogMelNetwork):
    """Three parallel convolutions of different shape, then blocks of convolutions (LIGHT-SERNET, Aftab et al. 2022,
    arXiv 2110.03435).

    It reads log mel bands instead of MFCCs, with GELU instead of ReLU, and the mean over time is `pooling`.

    Args:
        stem: channels of each of the three parallel convolutions.
        channels: of each block; the first two halve time and bands, the others bands alone.
        width: D, channels of the last convolution, of size 1 × 1.
        attention: of each block: "none", "se" (channels) or "cbam" (channels and places).
        dropout: after the last convolution.
        pooling: over time: "mean", "mean_std", or "none" for all frames.
    """

    version: ClassVar[int] = 1

    stem: PositiveCount = 32
    channels: list[PositiveCount] = field(default_factory=lambda: [64, 96, 128, 160])
    width: PositiveCount = 320
    attention: ChannelAttention = "none"
    dropout: Share = 0.3
    pooling: Literal["none", "mean", "mean_std"] = "mean"

    def trained(self) -> NetworkPart:
        return CnnPart(self)


class CnnPart(NetworkPart):
    """The network of `Cnn`: (N, T, bands) to frames (N, ⌈T / 8⌉, width)."""

    def __init__(self, encoder: Cnn) -> None:
        super().__init__(pooling=encoder.pooling, standardised=encoder.bands)
        stem, channels, self.width = encoder.stem, encoder.channels, encoder.width
        self.stems = nn.ModuleList(ConvolutionBlock(1, stem, kernel=kernel, pool=(2, 2)) for kernel in KERNELS)
        self.blocks = nn.ModuleList(
            ConvolutionBlock(*sizes, pool=(2 if number < TIME_HALVINGS else 1, 2), attention=encoder.attention)
            for number, sizes in enumerate(pairwise([stem * len(KERNELS), *channels]), start=1)
        )
        self.last = ConvolutionBlock(channels[-1], self.width, kernel=(1, 1), pool=(1, 1), dropout=encoder.dropout)

    @property
    def frame_dim(self) -> int:
        return self.width

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        spectrogram = values[:, None]  # (N, 1, T, bands)
        parallel = [block(spectrogram, lengths) for block in self.stems]
        hidden, lengths = torch.cat([output for output, _ in parallel], dim=1), parallel[0][1]
        for block in (*self.blocks, self.last):
            hidden, lengths = block(hidden, lengths)
        return hidden.mean(3).transpose(1, 2), lengths  # (N, T', width)
