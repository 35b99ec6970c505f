"""Standardisation of utterances' vectors by those of the same speaker."""

import torch
from torch import Tensor, nn

from emorec.datamodules.statistics import FEWEST

EPSILON = 1e-5  # is added to a variance
MOMENTUM = 0.1  # share of a batch in the running statistics


class SpeakerStandardisation(nn.Module):
    """(x - mean) / standard deviation of vectors, over those of the same speaker that are given with them.

    It is batch normalisation, without weights, in which each speaker is a domain of its own (Li et al. 2016, arXiv
    1603.04779). Vectors of unknown speakers, and of those with fewer than `FEWEST` among them, take running statistics
    of the training batches.

    Args:
        dim: H.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_variance", torch.ones(dim))

    def forward(self, vectors: Tensor, speakers: Tensor) -> Tensor:
        """Vectors (B, H) of a batch and the numbers (B,) of their speakers, -1 where unknown, to (B, H) in float32.

        In training they are standardised among each other. In evaluation each one stands alone, and takes the running
        statistics: what a vector becomes does not depend on the batch.
        """
        vectors = vectors.float()
        if not self.training:
            return self.alone(vectors)
        with torch.no_grad():
            self.running_mean.lerp_(vectors.mean(0), MOMENTUM)
            self.running_variance.lerp_(vectors.var(0, correction=0), MOMENTUM)
        return self.among(vectors, speakers)

    def among(self, vectors: Tensor, speakers: Tensor) -> Tensor:
        """Vectors (N, H) standardised among those of the same one of `speakers` (N,)."""
        _, group, counts = torch.unique(speakers, return_inverse=True, return_counts=True)
        mean = _means(vectors, group, counts)  # (S, H)
        centred = vectors - mean[group]
        variance = _means(centred.square(), group, counts)
        own = centred * (variance + EPSILON).rsqrt()[group]
        is_known = (speakers >= 0) & (counts[group] >= FEWEST)
        return own.where(is_known[:, None], self.alone(vectors))

    def alone(self, vectors: Tensor) -> Tensor:
        """Vectors (N, H) standardised by the running statistics."""
        return (vectors - self.running_mean) * (self.running_variance + EPSILON).rsqrt()


def _means(values: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """(S, H), the mean of values (N, H) over each of S groups, whose sizes are `counts` (S,)."""
    return values.new_zeros(len(counts), values.shape[1]).index_add(0, group, values) / counts[:, None]
