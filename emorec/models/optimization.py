"""Optimizers and learning-rate schedules of a config, made for a model's parameters."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from emorec.config.instantiation import Component
from emorec.config.schema import OptimizerComponent, TrainConfig
from emorec.datasets.utterance import Task
from emorec.encoders.trained import TrainedPart

# Names under which schedules of torch and of emorec take the number of steps of the whole training.
STEP_COUNTS = ("total_steps", "T_max")


@dataclass(frozen=True)
class OptimizerFactory:
    """Makes the optimizer of a config."""

    component: OptimizerComponent
    precision: str  # of the trainer

    def __call__(self, model: nn.Module) -> Optimizer:
        """The optimizer of the parameters of a model that train."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # torch's default on a CPU is a Python loop over the parameters, three times as slow for a small head;
        # Lightning refuses to clip the gradients of a fused optimizer under autocast
        on_cpu = all(parameter.device.type == "cpu" for parameter in trained)
        chosen = any(self.component.arguments.get(name) for name in ("foreach", "differentiable"))  # torch takes one
        fuses = on_cpu and self.precision == "32" and not chosen and self.component.lacks("fused")
        return self.component.make(
            Optimizer, params=self._groups(model) or trained, **({"fused": True} if fuses else {})
        )

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Groups of parameters with rates of their own; none without an encoder that trains.

        Norms and biases of encoders are not decayed.
        """
        parts = {name: part for name, part in model.named_modules() if isinstance(part, TrainedPart)}
        if not parts:
            return []
        own_rate = self.component.arguments.get("lr", inspect.signature(self.component.target).parameters["lr"].default)
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        of_encoders: set[int] = set()
        for part in parts.values():
            top = self.component.rates.encoder_lr or own_rate * part.rate
            for name, parameter in part.trained():
                decayed = top * self.component.rates.layer_decay ** part.depth(name)
                key = (own_rate if part.is_new(name) else decayed, parameter.dim() > 1)
                groups.setdefault(key, []).append(parameter)
                of_encoders.add(id(parameter))
        others = [item for item in model.parameters() if item.requires_grad and id(item) not in of_encoders]
        encoders = [
            {"params": items, "lr": rate, **({} if decays else {"weight_decay": 0.0})}
            for (rate, decays), items in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ]
        return [{"params": others}, *encoders]


@dataclass(frozen=True)
class SchedulerFactory:
    """Makes the learning-rate schedule of a config.

    A schedule that takes the number of all steps counts steps; any other counts epochs, as torch's documentation does.
    `ReduceLROnPlateau` is updated after the last batch of each epoch: at its end, Lightning would do it when a state is
    already saved.
    """

    component: Component
    monitor: str  # what `ReduceLROnPlateau` watches, such as "val/uar"
    direction: str  # of the monitor, "max" or "min"

    def __call__(self, optimizer: Optimizer, total_steps: int, epoch_batches: int) -> dict[str, Any]:
        """What Lightning takes as `lr_scheduler`, for the steps of the whole training and the batches of an epoch."""
        component = self.component
        derived: dict[str, Any] = dict.fromkeys(component.lacks(*STEP_COUNTS), total_steps)
        interval = "step" if derived or set(STEP_COUNTS) & set(component.arguments) else "epoch"
        frequency = 1
        if component.lacks("max_lr"):
            derived["max_lr"] = [group["lr"] for group in optimizer.param_groups]
        if issubclass(component.target, ReduceLROnPlateau):
            derived |= dict.fromkeys(component.lacks("mode"), self.direction)
            interval, frequency = "step", epoch_batches
        schedule = component.make(LRScheduler, optimizer=optimizer, **derived)
        return {"scheduler": schedule, "interval": interval, "frequency": frequency, "monitor": self.monitor}


def optimization(config: TrainConfig, task: Task) -> tuple[OptimizerFactory, SchedulerFactory | None]:
    """The factories of a config; what their constructors lack is reported before anything is computed.

    Raises:
        UserError: an argument is missing.
    """
    optimizer = OptimizerFactory(config.optimizer, str(config.trainer.precision))
    config.optimizer.check_complete("params")
    if config.scheduler is None:
        return optimizer, None
    config.scheduler.check_complete("optimizer", "max_lr", "mode", *STEP_COUNTS)
    return optimizer, SchedulerFactory(config.scheduler, f"val/{task.monitor}", task.direction)
