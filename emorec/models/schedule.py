"""Learning-rate schedules by step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from emorec.annotations import Probability, Share


class Warmup(LambdaLR):
    """Linear warm-up, then a decay to a floor, as a factor of the optimizer's rate.

    Args:
        optimizer: whose rate is scheduled.
        total_steps: steps of the whole training.
        warmup: share of the steps that warm up.
        floor: share of the rate that is left at the end.
    """

    def __init__(
        self, optimizer: Optimizer, *, total_steps: int, warmup: Share = 0.1, floor: Probability = 0.0
    ) -> None:
        steps = max(1, round(total_steps * warmup))

        def factor(step: int) -> float:
            if step < steps:
                return (step + 1) / steps
            progress = min(1.0, (step - steps) / max(1, total_steps - steps))
            return floor + (1 - floor) * self.decay(progress)

        super().__init__(optimizer, factor)

    @staticmethod
    def decay(progress: float) -> float:
        """From 1 at the end of the warm-up (0) to 0 at the end of the training (1)."""
        return 1 - progress


class WarmupLinear(Warmup):
    """A straight decay, as in the fine-tuning of BERT (Devlin et al. 2019, arXiv 1810.04805)."""


class WarmupCosine(Warmup):
    """Half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

    @staticmethod
    def decay(progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))
