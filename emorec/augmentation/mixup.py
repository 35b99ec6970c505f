"""Mixup: training on mixtures of two utterances and of their targets."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from emorec.augmentation.streams import Stream
from emorec.batch import Batch
from emorec.draws import mixed, uniform

POINTS = 1025  # of the distribution's quantiles, between which shares lie on lines


@dataclass(frozen=True)
class Mixing:
    """How the utterances of a batch are mixed."""

    share: Tensor  # () of the utterance itself, at least a half; the rest is its partner's
    partner: Tensor  # (B,) the row of each utterance's partner

    def inputs(self, values: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixtures (B, T, I) in float32, their mask (B, T), and where there is any (B,).

        Where one of the two ends earlier or is missing, it counts as zero.
        """
        mask = mask & present[:, None]
        values = values.float().where(mask[:, :, None], 0)
        mixture = self.share * values + (1 - self.share) * values[self.partner]
        return mixture, mask | mask[self.partner], present | present[self.partner]

    def loss(self, of_batch: Callable[[Batch], Tensor], batch: Batch, task: str) -> Tensor:
        """The loss of a batch's mixtures: between classes that of both, each by its share; of values that of the mean.

        Args:
            of_batch: the loss, given a batch with targets.
        """
        target, known = batch.targets[task], batch.target_mask[task]
        if target.is_floating_point():
            mean = self.share * target + (1 - self.share) * target[self.partner]
            return of_batch(_with_targets(batch, task, mean, known & known[self.partner]))
        votes, teacher = (
            {name: values[self.partner] for name, values in part.items()} for part in (batch.votes, batch.teacher)
        )
        other = _with_targets(batch, task, target[self.partner], known[self.partner])
        other = replace(other, votes=votes, teacher=teacher)
        return self.share * of_batch(batch) + (1 - self.share) * of_batch(other)


def _with_targets(batch: Batch, task: str, target: Tensor, known: Tensor) -> Batch:
    return replace(batch, targets={**batch.targets, task: target}, target_mask={**batch.target_mask, task: known})


class Mixup(nn.Module):
    """Pairs the utterances of a batch (Zhang et al. 2018, arXiv 1710.09412), as a function of their draws.

    The share of a batch, one as in the paper, is that of the utterance whose draw is first when all are sorted by a
    number of theirs; the partner of an utterance is the next in that order. So the result depends on which utterances
    are in the batch, not on their order in it. Which they are is a function of seed, epoch, batch size and number of
    ranks.

    Args:
        alpha: shares are drawn from Beta(alpha, alpha); the smaller it is, the closer they are to 1.
    """

    quantiles: Tensor

    def __init__(self, alpha: float) -> None:
        super().__init__()
        from scipy.special import betaincinv

        quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, POINTS))
        self.register_buffer("quantiles", torch.from_numpy(quantiles).float(), persistent=False)

    def forward(self, draw: Tensor) -> Mixing:
        """The mixing of a batch with these draws (B,)."""
        order = mixed(draw ^ Stream.MIXUP).argsort()
        partner = torch.empty_like(order)
        partner[order] = order.roll(-1)
        position = uniform(draw[order[:1]], 1, stream=Stream.MIXUP)[0, 0] * (POINTS - 1)
        below = position.long()
        pair = self.quantiles[below], self.quantiles[below + 1]
        share = torch.lerp(*pair, position - below)
        return Mixing(torch.maximum(share, 1 - share), partner)
