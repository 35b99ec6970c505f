"""Blocks of convolutions for sequences of unequal length, with attention to channels and places."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from emorec.augmentation.spans import length_mask
from emorec.encoders.masked_norm import MaskedBatchNorm

ChannelAttention = Literal["none", "se", "cbam"]
CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
DROPOUTS: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
POOLINGS: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
REDUCTION = 8  # of the channels within an attention
NARROWEST = 4  # units within an attention
SIDE = 7  # of the convolution of places


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(N, C), the mean of (N, C, …) where the mask (N, 1, …), of the same sizes or 1, is true."""
    counts = mask.expand(-1, -1, *values.shape[2:]).flatten(2).sum(2)  # (N, 1)
    return (values * mask).flatten(2).sum(2) / counts


def time_mask(lengths: Tensor, values: Tensor) -> Tensor:
    """(N, 1, T, 1, …) true for the first `lengths` (N,) of the T steps of values (N, C, T, …)."""
    return length_mask(lengths, values.shape[2]).view(values.shape[0], 1, -1, *(1 for _ in values.shape[3:]))


def halved(size: int, times: int) -> int:
    """A size that is halved and rounded up some times."""
    for _ in range(times):
        size = -(-size // 2)
    return size


def _bottleneck(channels: int) -> nn.Sequential:
    narrow = max(NARROWEST, channels // REDUCTION)
    return nn.Sequential(nn.Linear(channels, narrow), nn.SiLU(), nn.Linear(narrow, channels))


class SqueezeExcitation(nn.Module):
    """Scales channels by a gate, a function of their means (Hu et al. 2018, arXiv 1709.01507).

    SiLU replaces ReLU, after which some of few units never learn.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.gate = _bottleneck(channels)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """(N, C, …) and mask (N, 1, …) to (N, C, …)."""
        gates = torch.sigmoid(self.gate(masked_mean(values, mask)))  # (N, C)
        return values * gates.view(*gates.shape, *(1 for _ in values.shape[2:]))


class ConvolutionalAttention(nn.Module):
    """Attention to channels, then to places: CBAM (Woo et al. 2018, arXiv 1807.06521).

    One bottleneck reads the mean and the maximum of each channel, and a 7 × 7 convolution reads the mean and the
    maximum over the channels of each place. Without the normalisation after the convolution, and with SiLU in place of
    ReLU; steps of a clip are seen one by one.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.gate = _bottleneck(channels)
        kernel = (1,) * (dimensions - 2) + (SIDE, SIDE)
        padding = tuple(size // 2 for size in kernel)
        self.places = CONVOLUTIONS[dimensions](2, 1, kernel, padding=padding)  # type: ignore[arg-type]

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """(N, C, …) and mask (N, 1, …) to (N, C, …); padding is zero."""
        highest = values.masked_fill(~mask, -torch.inf).flatten(2).amax(2)  # (N, C)
        gates = torch.sigmoid(self.gate(masked_mean(values, mask)) + self.gate(highest))
        gated = values * gates.view(*gates.shape, *(1 for _ in values.shape[2:])) * mask
        maps = torch.cat([gated.mean(1, keepdim=True), gated.amax(1, keepdim=True)], dim=1)  # (N, 2, …)
        return gated * torch.sigmoid(self.places(maps))


ATTENTIONS: dict[str, type[SqueezeExcitation] | type[ConvolutionalAttention]] = {
    "se": SqueezeExcitation,
    "cbam": ConvolutionalAttention,
}


def _divided(lengths: Tensor, step: int) -> Tensor:
    """Lengths (N,) divided by a step, rounded up."""
    return torch.div(lengths + step - 1, step, rounding_mode="floor")


class ConvolutionBlock(nn.Module):
    """Convolution, normalisation, GELU, attention, mean over neighbours, and dropout of whole channels.

    Args:
        before: channels of the input.
        channels: C of the output.
        pool: neighbours of which one is kept, for each of the two or three dimensions, time first.
        kernel: odd sizes of the convolution.
        stride: steps of the convolution, of which one is kept before the pooling.
        attention: "none", "se" or "cbam".
        dropout: share of the channels.
    """

    def __init__(
        self,
        before: int,
        channels: int,
        *,
        pool: Sequence[int],
        kernel: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        attention: ChannelAttention = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dimensions = len(pool)
        sizes = tuple(kernel or (3,) * dimensions)
        padding = tuple(size // 2 for size in sizes)
        self.stride = tuple(stride or (1,) * dimensions)
        self.convolution = CONVOLUTIONS[dimensions](
            before,
            channels,
            sizes,  # type: ignore[arg-type]
            stride=self.stride,  # type: ignore[arg-type]
            padding=padding,  # type: ignore[arg-type]
            bias=False,
        )
        self.norm = MaskedBatchNorm(channels)
        self.attention = None if attention == "none" else ATTENTIONS[attention](channels, dimensions)
        self.sizes = tuple(pool)
        self.pool = POOLINGS[dimensions](self.sizes)
        self.dropout = DROPOUTS[dimensions](dropout)

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, T, …) of which the first `lengths` (N,) steps are data.

        Sizes are divided by `stride` and by `pool`, and rounded up.

        Padding of the input may be anything, that of the output is zero.
        """
        convolved = self.convolution(values * time_mask(lengths, values))
        lengths = _divided(lengths, self.stride[0])
        mask = time_mask(lengths, convolved)
        hidden = nn.functional.gelu(self.norm(convolved, mask)) * mask
        if self.attention is not None:
            hidden = self.attention(hidden, mask)
        missing = [-size % step for size, step in zip(hidden.shape[2:], self.sizes, strict=True)]
        even = nn.functional.pad(hidden, [side for size in reversed(missing) for side in (0, size)])
        return self.dropout(self.pool(even)), _divided(lengths, self.sizes[0])
