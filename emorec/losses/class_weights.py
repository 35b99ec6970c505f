"""Class weights from the counts of the training split."""

from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["none", "inverse", "effective_number"]


def weigh_classes(counts: Tensor, kind: Weighting, *, beta: float = 0.999) -> Tensor | None:
    """Weights (C,) with mean 1 over the classes that occur; `None` for "none". A class without utterances weighs 0.

    Args:
        counts: (C,) utterances of each class in the training split.
        kind: "inverse" frequency, or "effective_number" (Cui et al. 2019, "Class-balanced loss", arXiv 1901.05555).
        beta: of the effective number, (1 - beta^n) / (1 - beta).
    """
    if kind == "none":
        return None
    number = counts.double()
    effective = number if kind == "inverse" else (1 - beta**number) / (1 - beta)
    weights = torch.where(number > 0, 1 / effective.clamp_min(1e-12), 0.0)
    return (weights * (number > 0).sum() / weights.sum()).float()
