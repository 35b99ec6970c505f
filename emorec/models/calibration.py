"""Probabilities that say how often a prediction is right."""

import math

import torch
from torch import Tensor, nn

LIMITS = (math.log(0.05), math.log(20.0))  # of the logarithm of the temperature


class TemperatureScaling(nn.Module):
    """Divides logits by one number, by which no class becomes another (Guo et al. 2017, arXiv 1706.04599).

    The temperature is 1 until it is fitted, after training, to the predictions on validation.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(1))

    def fit(self, logits: Tensor, target: Tensor) -> None:
        """Takes the temperature with the least cross-entropy.

        Args:
            logits: (N, C), at temperature 1.
            target: (N,) class numbers; negative ones do not count.
        """
        from scipy.optimize import minimize_scalar

        known = target >= 0
        exact, classes = logits[known].double().cpu(), target[known].cpu()

        def loss(logarithm: float) -> float:
            return float(nn.functional.cross_entropy(exact / math.exp(logarithm), classes))

        found = minimize_scalar(loss, bounds=LIMITS, method="bounded")
        self.temperature.fill_(math.exp(found.x))

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.temperature
