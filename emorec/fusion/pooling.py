"""One vector for a sequence."""

import torch
from torch import Tensor, nn

from emorec.batch import ConfigurationError


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames that the mask marks; zero where it marks none.

    Args:
        sequence: (B, T, D).
        mask: (B, T).

    Returns:
        (B, D)
    """
    if sequence.shape[1] == 1:
        return sequence.squeeze(1) * mask
    weights = mask[:, :, None].to(sequence.dtype)
    return (sequence * weights).sum(1) / weights.sum(1).clamp_min(1)


class MeanPooling(nn.Module):
    """`masked_mean`; `dim` is D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(sequence, mask)


class AttentionPooling(nn.Module):
    """Mean weighted by a learned score of each frame (Lin et al. 2017, arXiv 1703.03130, one head)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.score = nn.Sequential(nn.Linear(dim, max(1, dim // 2)), nn.Tanh(), nn.Linear(max(1, dim // 2), 1))

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(sequence).squeeze(-1)  # (B, T)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(1) * mask  # an empty row has no weights
        return torch.einsum("bt,btd->bd", weights, sequence)


POOLINGS: dict[str, type[nn.Module]] = {
    "mean": MeanPooling,
    "attention": AttentionPooling,
}


def make_pooling(name: str, dim: int) -> nn.Module:
    """The pooling called `name` for sequences (B, T, dim).

    Raises:
        ConfigurationError: there is no such pooling.
    """
    if name not in POOLINGS:
        raise ConfigurationError(f"expected fusion.pooling in {sorted(POOLINGS)}, got {name!r}")
    return POOLINGS[name](dim)
