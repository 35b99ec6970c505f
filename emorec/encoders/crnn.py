"""A convolutional recurrent network of log mel bands, trained from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.encoders.networks import LogMelNetwork
from emorec.encoders.trained import TrainedPart, length_mask


@dataclass(kw_only=True, eq=False)
class Crnn(LogMelNetwork):
    """Blocks of convolutions, then a bidirectional LSTM (after Çakır et al. 2017, arXiv 1702.06286).

    Args:
        channels: of each block; a block halves time and bands.
        hidden: units of the LSTM in each direction; D = 2 hidden.
        dropout: after each block and the LSTM.
        pooling: over time: "mean", "mean_std", or "none" for all frames.
    """

    version: ClassVar[int] = 1

    channels: list[PositiveCount] = field(default_factory=lambda: [32, 64, 96])
    hidden: PositiveCount = 64
    dropout: Share = 0.2
    pooling: Literal["none", "mean", "mean_std"] = "mean_std"

    def trained(self) -> TrainedPart:
        return CrnnPart(
            bands=self.bands, channels=self.channels, hidden=self.hidden, dropout=self.dropout, pooling=self.pooling
        )


class CrnnPart(TrainedPart):
    """The network of `Crnn`: (N, T, bands) to frames (N, ⌈T / 2^blocks⌉, 2 hidden)."""

    def __init__(self, *, bands: int, channels: Sequence[int], hidden: int, dropout: float, pooling: str) -> None:
        super().__init__(pooling=pooling, shortest=2 ** len(channels), standardised=bands)
        before = [1, *channels[:-1]]
        self.blocks = nn.ModuleList(_Block(*sizes, dropout) for sizes in zip(before, channels, strict=True))
        for _ in channels:
            bands = -(-bands // 2)
        self.lstm = nn.LSTM(channels[-1] * bands, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    @property
    def frame_dim(self) -> int:
        return 2 * self.lstm.hidden_size

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = values[:, None]  # (N, 1, T, bands)
        for block in self.blocks:
            hidden, lengths = block(hidden, lengths)
        frames = hidden.permute(0, 2, 1, 3).flatten(2)  # (N, T', channels · bands')
        packed = nn.utils.rnn.pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.dropout(output), lengths


class _Block(nn.Module):
    """Convolution, normalisation of each frame's channels, GELU, and a pooling that halves time and bands."""

    def __init__(self, before: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, T, bands) and lengths (N,) to half of both, rounded up; padding stays zero."""
        mask = length_mask(lengths, values.shape[2])[:, None, :, None]
        hidden = nn.functional.gelu(self.norm(self.convolution(values * mask))) * mask
        even = nn.functional.pad(hidden, (0, hidden.shape[3] % 2, 0, hidden.shape[2] % 2))
        pooled = nn.functional.avg_pool2d(even, 2)
        return self.dropout(pooled), torch.div(lengths + 1, 2, rounding_mode="floor")
