"""Spans of time steps or bands."""

import torch
from torch import Tensor

from emorec.layers import counted


def span_mask(starts: Tensor, widths: Tensor, length: int) -> Tensor:
    """(…, length) true from `starts` (…) on, for `widths` (…) positions."""
    positions = counted(length, widths.device)
    return (positions >= starts[..., None]) & (positions < (starts + widths)[..., None])


def length_mask(lengths: Tensor, longest: int) -> Tensor:
    """(N, longest) true for the first `lengths` (N,)."""
    return span_mask(torch.zeros_like(lengths), lengths, longest)
