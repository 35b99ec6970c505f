"""Batch normalisation that knows of padding and of other ranks."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class MaskedBatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) whose statistics leave padding out.

    With several ranks they are those of all ranks, as if one rank had the whole batch.

    Args:
        channels: C.
        momentum: share of a batch in the running statistics.
        epsilon: is added to the variance.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalises (N, C, …).

        Args:
            values: (N, C, …).
            mask: (N, 1, …) true where there is data, with sizes that fit those of the values or are 1; `None` where
                all of it is data.
        """
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            mean, variance = self._statistics(values.float(), mask)
        scale = self.weight * (variance + self.epsilon).rsqrt()
        shape = (-1, *(1 for _ in values.shape[2:]))  # (C, 1, …)
        return values * scale.view(shape) + (self.bias - mean * scale).view(shape)

    def absent(self) -> Tensor:
        """Zero, with the part in the other ranks' statistics of a rank that has no values."""
        nothing = self.weight[None] * 0  # (1, C), with a gradient, as the others' values have one
        mean, variance = self._statistics(nothing, torch.zeros_like(nothing[:, :1], dtype=torch.bool))
        return (mean.sum() + variance.sum()) * 0

    def _statistics(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean (C,) and variance (C,) of a batch; counts them in the running statistics."""
        others = [0, *range(2, values.dim())]  # all dimensions but that of the channels
        if mask is None:
            count, total = values.new_tensor(values.numel() / values.shape[1]), values.sum(others)
        else:
            count = mask.expand(-1, -1, *values.shape[2:]).sum().to(values.dtype)
            total = (values * mask).sum(others)
        count = _over_ranks(count)
        share = self.momentum * (count > 0)
        count = count.clamp_min(1)
        mean = _over_ranks(total) / count
        deviations = (values - mean.view(-1, *(1 for _ in values.shape[2:]))).square()
        variance = _over_ranks((deviations if mask is None else deviations * mask).sum(others)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, share)
            self.running_variance.lerp_(variance * count / (count - 1).clamp_min(1), share)
        return mean, variance


def _over_ranks(value: Tensor) -> Tensor:
    """The sum over the ranks, with its gradient."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return value
    total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return total
