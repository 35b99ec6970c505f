"""Learning-rate schedules by step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from emorec.errors import UserError


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to a floor (Loshchilov & Hutter 2017, arXiv 1608.03983).

    Args:
        optimizer: whose rate is scheduled.
        total_steps: steps of the whole training.
        warmup: share of the steps that warm up, 0 to 1.
        floor: share of the rate that is left at the end.
    """

    def __init__(self, optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1, floor: float = 0.0) -> None:
        if not 0 <= warmup < 1 or not 0 <= floor <= 1:
            raise UserError(f"expected scheduler.warmup in [0, 1) and scheduler.floor in [0, 1], got {warmup}, {floor}")
        steps = max(1, round(total_steps * warmup))

        def factor(step: int) -> float:
            if step < steps:
                return (step + 1) / steps
            progress = min(1.0, (step - steps) / max(1, total_steps - steps))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
