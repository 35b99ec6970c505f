"""A moving average of the weights, which is validated and kept in place of the weights."""

import warnings
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor


class MovingAverage(EMAWeightAveraging):
    """Averages the weights exponentially after each step (Tarvainen and Valpola 2017, arXiv 1703.01780)."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():  # of weights that are shared out over ranks, which the config refuses
            warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback")
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *rest: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *rest)
        assert self._average_model is not None
        pairs = zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True)
        for average, own in pairs:
            if not own.is_floating_point():  # positions and words have no average
                average.copy_(own)

    def weights(self) -> dict[str, Tensor]:
        """The averages, by the names of the weights."""
        assert self._average_model is not None
        weights: dict[str, Tensor] = self._average_model.module.state_dict()
        return weights


def kept_weights(trainer: lightning.Trainer) -> dict[str, Tensor]:
    """What is validated: the averages, or the weights themselves, whole also where ranks hold parts of them."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, MovingAverage):
            return callback.weights()
    weights: dict[str, Tensor] = trainer.strategy.lightning_module_state_dict()
    return weights
