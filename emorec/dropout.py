"""Dropout that is fast on a CPU."""

import torch
from torch import Tensor, nn

CHOICES = 1 << 16  # of the 16 bits that decide about a value


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, several times as fast on a CPU, where it is a quarter of the training step of a small head.

    On a CPU torch draws a random number for each value. Here one of 64 bits decides about four values. So `p` is
    rounded to a multiple of 2 ** -16, and the values that stay are scaled by what was rounded: their mean is unbiased.
    """

    def forward(self, input: Tensor) -> Tensor:
        kept = round((1 - self.p) * CHOICES)
        if not (self.training and input.is_cpu and 0 < kept < CHOICES):
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        draws = bits.view(torch.int16)[: input.numel()].view(input.shape)
        scale = torch.empty_like(input, requires_grad=False)
        torch.lt(draws, kept - CHOICES // 2, out=scale)  # 1 where a value stays
        return input * scale.mul_(CHOICES / kept)
