"""Batch normalisation that knows of padding and of other ranks."""

from typing import Any

import torch
from torch import Tensor, distributed, nn

EPSILON = 1e-5  # is added to a variance


class MaskedBatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) whose statistics leave padding out.

    With several ranks they are those of all ranks, as if one rank had the whole batch.

    Args:
        channels: C.
        momentum: share of a batch in the running statistics.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalises (N, C, …); what becomes of padding is not defined.

        Args:
            values: (N, C, …).
            mask: (N, 1, …) true where there is data, with sizes that fit those of the values or are 1; `None` where
                all of it is data.
        """
        if not self.training:
            scale = self.weight * (self.running_variance + EPSILON).rsqrt()
            shift = self.bias - self.running_mean * scale
            return values * _of_channels(scale, values) + _of_channels(shift, values)
        if mask is None:
            mask = torch.ones((), dtype=torch.bool, device=values.device).expand(1, *values.shape[1:])[:, :1]
        output, mean, variance, count = _Normalisation.apply(values.float(), mask, self.weight, self.bias)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            share = self.momentum * (count > 0)
            self.running_mean.lerp_(mean, share)
            self.running_variance.lerp_(variance * count / (count - 1).clamp_min(1), share)
        result: Tensor = output
        return result

    def absent(self) -> Tensor:
        """Zero, with the part in the other ranks' statistics of a rank that has no values."""
        nothing = torch.zeros(1, len(self.weight), device=self.weight.device)
        output: Tensor = self(nothing, torch.zeros_like(nothing[:, :1], dtype=torch.bool))
        return output.sum() * 0


class _Normalisation(torch.autograd.Function):
    """Normalises values (N, C, …) by their own statistics where a mask is true; padding becomes the bias.

    It passes over the values a third as often as the same in separate operations, and says when ranks meet.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The normalised values, mean (C,) and variance (C,) of the data, and the number () of its values."""
        others = _others(values)
        own_count = mask.expand(len(values), 1, *values.shape[2:]).sum().to(values.dtype)
        total = _over_ranks(torch.cat([(values * mask).sum(others), own_count[None]]))
        count = total[-1]
        mean = total[:-1] / count.clamp_min(1)
        centred = (values - _of_channels(mean, values)).mul_(mask)
        variance = _over_ranks(torch.linalg.vector_norm(centred, dim=others).square()) / count.clamp_min(1)
        inverse = (variance + EPSILON).rsqrt()
        ctx.save_for_backward(centred, mask, weight, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        output = torch.addcmul(_of_channels(bias, values), centred, _of_channels(weight * inverse, values))
        return output, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        """The gradients of the values, the weight and the bias."""
        centred, mask, weight, inverse, count = ctx.saved_tensors
        others, own = _others(centred), gradient * mask
        total, slope = own.sum(others), (own * centred).sum(others)  # (C,) each
        means = _over_ranks(torch.stack([total, slope])) / count.clamp_min(1)
        scale = weight * inverse
        own = own.sub_(_of_channels(means[0], own)).mul_(_of_channels(scale, own)).mul_(mask)
        own.addcmul_(centred, _of_channels(scale * inverse.square() * means[1], own), value=-1)
        return own, None, slope * inverse, gradient.sum(others)


def _others(values: Tensor) -> list[int]:
    """All dimensions of (N, C, …) but that of the channels."""
    return [0, *range(2, values.dim())]


def _of_channels(numbers: Tensor, values: Tensor) -> Tensor:
    """Numbers (C,) in a form that fits values (N, C, …)."""
    return numbers.view(-1, *(1 for _ in values.shape[2:]))


def _over_ranks(value: Tensor) -> Tensor:
    """The sum over the ranks."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(value)
    return value
