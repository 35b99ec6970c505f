"""Losses of regression: distances, and 1 - concordance."""

from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from emorec.annotations import Positive
from emorec.losses.loss import RegressionLoss


class MeanAbsoluteError(RegressionLoss):
    """Mean of |prediction - target|."""

    def compare(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"mae": l1_loss(predicted, target)}


class MeanSquaredError(RegressionLoss):
    """Mean of (prediction - target)²."""

    def compare(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"mse": mse_loss(predicted, target)}


class Huber(RegressionLoss):
    """Huber (1964): quadratic up to `delta`, linear above.

    Args:
        delta: up to which difference it is quadratic, in the targets' unit.
    """

    def __init__(self, *, task: str, delta: Positive = 1.0, weights: dict[str, float] | None = None) -> None:
        super().__init__(task=task, weights=weights)
        self.delta = delta

    def compare(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"huber": huber_loss(predicted, target, delta=self.delta)}


class Concordance(RegressionLoss):
    """1 - CCC over the batch (Lin 1989; as a loss: Trigeorgis et al. 2016, "Adieu features?").

    A batch whose targets are all equal, such as one utterance, has no covariance and gives no useful gradient.
    """

    def compare(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        first, second = predicted - predicted.mean(), target - target.mean()
        spread = first.square().mean() + second.square().mean() + (predicted.mean() - target.mean()).square()
        return {"ccc": 1 - 2 * (first * second).mean() / spread.clamp_min(1e-8)}
