"""Puts a model together from a config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from emorec.config.schema import ModelConfig, TrainConfig
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.utterance import Task
from emorec.errors import UserError, make_all
from emorec.losses.loss import Loss
from emorec.metrics.regression import BinnedAccuracy, BinnedWeightedF1
from emorec.models.emotion_model import EmotionModel
from emorec.models.heads import Head
from emorec.models.layer_sum import LayerSum
from emorec.models.normalisation import Normalisation
from emorec.models.optimization import OptimizerFactory, SchedulerFactory, optimization
from emorec.models.projection import Projection


@dataclass(frozen=True)
class ModelParts:
    """What of a model needs no data: it is made, and so checked, before any feature is computed."""

    fusion: nn.Module
    loss: Loss
    metrics: dict[str, Metric]
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None


def make_parts(config: TrainConfig, task: Task) -> ModelParts:
    """The parts of a model.

    Raises:
        UserError: a part's arguments do not fit it, or it is for another kind of task; all problems at once.
    """
    made: dict[str, Any] = make_all(
        "the model",
        {
            "fusion": lambda: _fusion(config),
            "loss": lambda: _loss(config, task),
            "metrics": lambda: make_metrics(config, task),
            "optimization": lambda: optimization(config, task),
        },
    )
    optimizer, scheduler = made.pop("optimization")
    return ModelParts(optimizer=optimizer, scheduler=scheduler, **made)


def _fusion(config: TrainConfig) -> nn.Module:
    hidden = config.model.hidden
    with torch.random.fork_rng(devices=[]):  # its first weights depend on the seed alone
        torch.manual_seed(config.seed)
        return config.fusion.make(nn.Module, dims=dict.fromkeys(config.encoder.used(), hidden), hidden=hidden)


def _loss(config: TrainConfig, task: Task) -> Loss:
    loss = config.loss.make(Loss, task=task.name)  # type: ignore[type-abstract]
    if loss.kind != task.kind:
        name = type(loss).__name__
        raise UserError(
            f"loss: expected a loss for {task.kind} (task {task.name!r}), got {name}, which is for {loss.kind}"
        )
    return loss


def make_metrics(config: Any, task: Task) -> dict[str, Metric]:
    """{name: metric} of a config's `metric`, those for the task's kind, with the task's own.

    Raises:
        UserError: the task's monitor is none of them.
    """
    metrics: dict[str, Metric] = {}
    for name, component in config.metric.items():
        if component is not None and metric_kind(component.target) == task.kind:
            derived = dict.fromkeys(component.lacks("num_classes"), len(task.labels))
            metrics[name] = component.make(Metric, **derived)
    for thresholds in task.cuts:
        metrics[f"accuracy_{len(thresholds) + 1}"] = BinnedAccuracy(thresholds)
        if len(thresholds) == 1:
            metrics["weighted_f1"] = BinnedWeightedF1(thresholds)
    if task.monitor not in (known := {"loss", *metrics}):
        raise UserError(f"expected the monitor of task {task.name!r} in {sorted(known)}, got {task.monitor!r}")
    return metrics


def metric_kind(target: type) -> str:
    """The kind of task that a class of metrics is for."""
    of_regression = target.__module__.startswith("torchmetrics.regression")
    return str(getattr(target, "kind", "regression" if of_regression else "classification"))


def build_model(
    parts: ModelParts, settings: ModelConfig, module: UtteranceDataModule, *, fit_normalisation: bool
) -> EmotionModel:
    """The model for the dimensions of its data.

    Args:
        parts: used as they are; a second model of the same parts would share them.
        settings: of the config.
        module: the data.
        fit_normalisation: whether statistics are taken from the training split; false where weights will be loaded.
    """
    task, table = module.task, module.tables["train"]
    normalisations: dict[str, nn.Module] = {}
    layer_sums: dict[str, nn.Module] = {}
    projections: dict[str, nn.Module] = {}
    for modality, dim in module.feature_dims.items():
        normalisation = Normalisation(kind=settings.normalisation, dim=dim)
        if fit_normalisation and settings.normalisation != "none":
            normalisation.fit(*table.feature_statistics(modality))
        normalisations[modality] = normalisation
        layers = module.layers[modality]
        if layers > 1:
            layer_sums[modality] = LayerSum(layers)
        projections[modality] = Projection(dim=dim // layers, hidden=settings.hidden, dropout=settings.dropout)
    classes = task.kind == "classification"
    if classes:
        parts.loss.fit(table.class_counts())
    return EmotionModel(
        task=task,
        normalisations=normalisations,
        layer_sums=layer_sums,
        projections=projections,
        fusion=parts.fusion,
        head=Head(
            hidden=settings.hidden,
            outputs=len(task.labels),
            dropout=settings.dropout,
            start=None if classes else float(table.target.nanmean()),
        ),
        loss=parts.loss,
        metrics=parts.metrics,
        make_optimizer=parts.optimizer,
        make_scheduler=parts.scheduler,
    )


def feature_widths(components: Mapping[str, Mapping[str, Tensor]]) -> dict[str, int]:
    """{modality: width of the features} that a model with these weights reads, of all layers side by side."""
    widths = {}
    layers = {name.partition(".")[0]: len(scores) for name, scores in components.get("layer_sum", {}).items()}
    for name, weights in components["projection"].items():
        if weights.dim() == 2:  # (H, D)
            modality = name.partition(".")[0]
            widths[modality] = int(weights.shape[1]) * layers.get(modality, 1)
    return widths
