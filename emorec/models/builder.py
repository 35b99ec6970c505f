"""Puts a model together from a config."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from emorec.augmentation.mixup import Mixup
from emorec.config.instantiation import Component
from emorec.config.schema import ModelConfig, TrainConfig
from emorec.context.context import Context
from emorec.datamodules.statistics import FEWEST
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import VOTES, Task
from emorec.encoders.encoder import Encoder
from emorec.encoders.trained import TrainedPart
from emorec.errors import UserError, make_all, raise_problems
from emorec.fusion.fusion import Fusion
from emorec.fusion.votes import WeightedLogits
from emorec.losses.loss import Loss, ViewLoss
from emorec.metrics.regression import BinnedAccuracy, BinnedWeightedF1
from emorec.models.calibration import TemperatureScaling
from emorec.models.classical import ClassicalHead, SideBySide, check_classical, stored_widths
from emorec.models.emotion_model import EmotionModel
from emorec.models.heads import EmbeddingHead, Head, OrdinalHead
from emorec.models.layer_sum import LayerSum
from emorec.models.normalisation import Normalisation
from emorec.models.optimization import OptimizerFactory, SchedulerFactory, optimization
from emorec.models.other_tasks import OtherTask, OtherTasks, default_loss
from emorec.models.projection import Projection
from emorec.models.speaker_standardisation import SpeakerStandardisation

STATISTICS_BATCH, FRONT_BATCH = 512, 32  # utterances of which statistics are computed at once, and from waveforms


@dataclass(frozen=True)
class ModelParts:
    """What of a model needs no data: it is made, and so checked, before any feature is computed."""

    fusion: Fusion
    context: Context | None
    loss: Loss
    metrics: dict[str, Metric]
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None
    others: tuple[OtherTask, ...] = ()
    encoders: dict[str, TrainedPart] = field(default_factory=dict)  # {modality: trained part} of encoders that train
    calibration: TemperatureScaling | None = None
    head: ClassicalHead | None = None  # instead of one that trains


def make_parts(
    config: TrainConfig, task: Task, encoders: Mapping[str, Encoder] | None = None, others: Sequence[Task] = ()
) -> ModelParts:
    """The parts of a model. `encoders` are {modality: encoder}; those that train load their weights. `others` are tasks
    that are learned beside the main one.

    Raises:
        UserError: a part's arguments do not fit it, or it is for another kind of task; all problems at once.
    """
    made: dict[str, Any] = make_all(
        "the model",
        {
            "fusion": lambda: _fusion(config, task),
            "context": lambda: _context(config),
            "loss": lambda: _loss(config, task),
            "metrics": lambda: make_metrics(config, task),
            "tasks": lambda: _others(config, others),
            "optimization": lambda: optimization(config, task),
            "encoders": lambda: _trained(encoders or {}, config.seed),
            "calibration": lambda: _calibration(config, task),
            "head": lambda: _classical_head(config, task),
        },
    )
    optimizer, scheduler = made.pop("optimization")
    made["others"] = made.pop("tasks")
    if config.head is not None:
        check_classical(config, task, list(made["encoders"]), others)
        return ModelParts(optimizer=optimizer, scheduler=scheduler, **made)
    if made["others"]:
        raise_problems("the model", _without_vector(made["fusion"], "for several tasks"))
    if made["context"] is not None:
        _check_context(made["fusion"], made["loss"], config)
    _check_loss(made["fusion"], made["loss"], config)
    if config.model.fused_normalisation == "speaker":
        _check_standardisation(made["fusion"], made["loss"], config)
    if isinstance(made["loss"], ViewLoss):
        _give_views(made["encoders"], made["fusion"], config)
    return ModelParts(optimizer=optimizer, scheduler=scheduler, **made)


def _fusion(config: TrainConfig, task: Task) -> Fusion:
    if config.head is not None:
        return SideBySide(list(config.encoder.used()))
    hidden = config.model.hidden
    derived = dict.fromkeys(config.fusion.lacks("outputs"), len(task.labels))
    with torch.random.fork_rng(devices=[]):  # its first weights depend on the seed alone
        torch.manual_seed(config.seed)
        dims = dict.fromkeys(config.encoder.used(), hidden)
        return config.fusion.make(Fusion, dims=dims, hidden=hidden, **derived)  # type: ignore[type-abstract]


def _others(config: TrainConfig, tasks: Sequence[Task]) -> tuple[OtherTask, ...]:
    return tuple(
        OtherTask(task, default_loss(task), config.task_weights.get(task.name, 1.0), make_metrics(config, task))
        for task in tasks
    )


def _context(config: TrainConfig) -> Context | None:
    if config.context is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.context.make(Context, hidden=config.model.hidden)  # type: ignore[type-abstract]


def _check_loss(fusion: Fusion, loss: Loss, config: TrainConfig) -> None:
    """Raises a `UserError` for a loss that does not work with the fusion, or on mixtures of utterances."""
    problems = []
    if loss.detaches_head:
        problems += _without_vector(fusion, "for detach_classifier=true")
    if loss.reads_modality_logits and not fusion.classifies:
        expected = "one with logits of each modality, such as mean_logits, for one_pass"
        problems.append(f"fusion: expected {expected}, got {type(fusion).__name__}")
    if loss.ordinal:
        problems += _without_vector(fusion, "for a loss of ordered classes")
    if not loss.mixes:
        problems += _with_mixup(config, "with a loss that compares utterances")
    raise_problems("the model", problems)


def _without_vector(fusion: Fusion, why: str) -> list[str]:
    """A line where a fusion gives logits and no vector of all modalities."""
    expected = f"fusion: expected one with a vector of all modalities {why}"
    return [f"{expected}, got {type(fusion).__name__}"] if fusion.classifies else []


def _with_mixup(config: TrainConfig, why: str) -> list[str]:
    """A line where utterances are mixed."""
    return [f"model.mixup: expected 0 {why}, got {config.model.mixup}"] if config.model.mixup else []


def _check_context(fusion: Fusion, loss: Loss, config: TrainConfig) -> None:
    """Raises a `UserError` for parts that do not work on the turns of dialogues."""
    problems = [*_without_vector(fusion, "for a context"), *_with_mixup(config, "with a context")]
    if isinstance(loss, ViewLoss):
        problems.append(f"context: expected none for {type(loss).__name__}, which compares views of single utterances")
    raise_problems("the model", problems)


def _check_standardisation(fusion: Fusion, loss: Loss, config: TrainConfig) -> None:
    """Raises a `UserError` for what does not work on vectors that are standardised by speaker."""
    where, problems = "model.fused_normalisation=speaker", []
    if config.group_by_speaker is None or config.group_by_speaker < FEWEST:
        problems.append(f"group_by_speaker: expected at least {FEWEST} for {where}, got {config.group_by_speaker}")
    problems += [*_without_vector(fusion, f"for {where}"), *_with_mixup(config, f"for {where}")]
    if isinstance(loss, ViewLoss):
        problems.append(f"loss: expected one that trains the head for {where}, got {type(loss).__name__}")
    if config.context is not None:
        problems.append(f"context: expected none for {where}, got {config.context.target.__name__}")
    if config.distillation.teacher is not None:
        problems.append(f"distillation.teacher: expected null for {where}, got {config.distillation.teacher!r}")
    raise_problems("the model", problems)


def _trained(encoders: Mapping[str, Encoder], seed: int) -> dict[str, TrainedPart]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {modality: encoder.trained_part() for modality, encoder in encoders.items()}
    return {modality: part for modality, part in parts.items() if part is not None}


def _give_views(encoders: Mapping[str, TrainedPart], fusion: Fusion, config: TrainConfig) -> None:
    """Lets encoders augment what a loss of views compares.

    Raises:
        UserError: the views of an utterance would be equal in a modality, or there would be nothing to compare.
    """
    name = f"for {config.loss.target.__name__}"
    problems = [
        f"encoder.{modality}.augmentation: expected settings, of an encoder that trains, {name}, which compares "
        "augmented views, got none"
        for modality in config.encoder.used()
        if modality not in encoders or not encoders[modality].augments
    ]
    problems += [*_without_vector(fusion, name), *_with_mixup(config, name)]
    if config.batch_size < 2:
        problems.append(f"batch_size: expected at least 2 {name}, got {config.batch_size}")
    raise_problems("the model", problems)
    for part in encoders.values():
        part.give_views()


def restore_encoders(encoders: Mapping[str, Encoder], components: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Gives {modality: encoder} the states, such as vocabularies, that a run's {component: its weights} hold."""
    for modality, encoder in encoders.items():
        encoder.restore(components.get(f"encoder.{modality}", {}))


def _classical_head(config: TrainConfig, task: Task) -> ClassicalHead | None:
    if config.head is None or task.kind == "self_supervised":  # `check_classical` refuses the latter
        return None
    return config.head.make(ClassicalHead, outputs=len(task.labels), task_kind=task.kind)  # type: ignore[type-abstract]


def _calibration(config: TrainConfig, task: Task) -> TemperatureScaling | None:
    if config.head is not None:  # margins and votes are no probabilities
        return TemperatureScaling() if task.kind == "classification" else None
    if config.calibrate and task.kind != "classification":
        raise UserError(f"calibrate: expected false for a task of {task.kind}, which has no probabilities, got true")
    return TemperatureScaling() if config.calibrate else None


def _loss(config: TrainConfig, task: Task) -> Loss:
    if config.head is not None and task.kind != "self_supervised":
        return default_loss(task)  # is measured, not trained with
    derived = {"hidden": config.model.hidden, "outputs": len(task.labels), "modalities": list(config.encoder.used())}

    def made(component: Component) -> Loss:
        return component.make(Loss, task=task.name, **{name: derived[name] for name in component.lacks(*derived)})  # type: ignore[type-abstract]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        parts = {name: made(part) for name, part in config.loss.arguments.items() if isinstance(part, Component)}
        loss = made(replace(config.loss, arguments={**config.loss.arguments, **parts}))
    if loss.kind != task.kind:
        name = type(loss).__name__
        raise UserError(
            f"loss: expected a loss for {task.kind} (task {task.name!r}), got {name}, which is for {loss.kind}"
        )
    if not loss.trains_head:
        name = config.loss.target.__name__.lower()
        raise UserError(f"loss: expected one that trains the head beside {name}, such as loss=[cross_entropy,{name}]")
    return loss


def make_metrics(config: Any, task: Task) -> dict[str, Metric]:
    """{name: metric} of a config's `metric`, those for the task's kind, with the task's own."""
    metrics: dict[str, Metric] = {}
    for name, component in config.metric.items():
        if component is not None and metric_kind(component.target) == task.kind:
            derived = dict.fromkeys(component.lacks("num_classes"), len(task.labels))
            metrics[name] = component.make(Metric, **derived)
    for thresholds in task.cuts:
        metrics[f"accuracy_{len(thresholds) + 1}"] = BinnedAccuracy(thresholds)
        if len(thresholds) == 1:
            metrics["weighted_f1"] = BinnedWeightedF1(thresholds)
    return metrics


def check_monitor(parts: ModelParts, task: Task) -> None:
    """Raises a `UserError` where the metric that chooses the best epoch is not computed."""
    if task.monitor not in (known := {"loss", *parts.metrics}):
        raise UserError(f"metric: expected the monitor of task {task.name!r}, {task.monitor!r}, got {sorted(known)}")


def check_votes(loss: Loss, task: Task, manifest: Manifest) -> None:
    """Raises a `UserError` where a loss reads votes that the corpus does not have."""
    name = f"{task.name}{VOTES}"
    if loss.reads_votes and not any(name in item.targets for item in manifest.utterances):
        raise UserError(f"loss.targets: expected labels, since dataset={manifest.dataset} has no votes, got 'votes'")


def metric_kind(target: type) -> str:
    """The kind of task that a class of metrics is for."""
    of_regression = target.__module__.startswith("torchmetrics.regression")
    return str(getattr(target, "kind", "regression" if of_regression else "classification"))


def build_model(
    parts: ModelParts, settings: ModelConfig, task: Task, *, widths: Mapping[str, int], layers: Mapping[str, int]
) -> EmotionModel:
    """A model for features of some widths, not fitted to any data; a second one of the same parts would share them.

    Args:
        widths: {modality: width of what is stored of it, of all layers side by side}.
        layers: {modality: number of layers}.
    """
    hidden, dropout = settings.hidden, settings.dropout
    trained, classical = parts.encoders, parts.head
    if classical is not None:
        assert isinstance(parts.fusion, SideBySide)
        parts.fusion.read(widths)
        layers = dict.fromkeys(widths, 1)  # those of several layers stay side by side
    read = {**widths, **{name: part.standardised for name, part in trained.items()}}  # 0 where inputs stay as they are
    normalisations: dict[str, nn.Module] = {
        name: Normalisation(kind=settings.normalisation if width else "none", dim=width) for name, width in read.items()
    }
    widths = {**widths, **{name: part.dim for name, part in trained.items()}}
    layers = {**layers, **{name: part.layer_count for name, part in trained.items()}}
    return EmotionModel(
        task=task,
        encoders=dict(trained),
        normalisations=normalisations,
        encoded={
            name: Normalisation(kind="train", dim=part.dim)
            for name, part in trained.items()
            if settings.encoded_normalisation == "train"
        },
        layer_sums={name: LayerSum(layers[name]) for name in widths if layers[name] > 1},
        projections={
            name: nn.Identity()
            if classical is not None
            else Projection(dim=dim // layers[name], hidden=hidden, dropout=dropout)
            for name, dim in widths.items()
        },
        fusion=parts.fusion,
        context=parts.context,
        head=_head(parts, task, settings),
        loss=parts.loss,
        metrics=parts.metrics,
        make_optimizer=parts.optimizer,
        make_scheduler=parts.scheduler,
        mixup=Mixup(settings.mixup) if settings.mixup else None,
        modality_dropout=settings.modality_dropout,
        standardisation=SpeakerStandardisation(hidden) if settings.fused_normalisation == "speaker" else None,
        others=OtherTasks(parts.others, hidden=hidden, dropout=dropout) if parts.others else None,
        calibration=parts.calibration,
    )


def _head(parts: ModelParts, task: Task, settings: ModelConfig) -> nn.Module | None:
    loss = parts.loss
    if parts.head is not None or parts.fusion.classifies:
        return parts.head
    if isinstance(loss, ViewLoss):
        return EmbeddingHead(hidden=settings.hidden, dim=loss.dim)
    kind = OrdinalHead if loss.ordinal else Head
    return kind(hidden=settings.hidden, outputs=len(task.labels), dropout=settings.dropout)


def model_for(parts: ModelParts, settings: ModelConfig, module: UtteranceDataModule) -> EmotionModel:
    """The model for the features of a data module; its loss has the class counts of the training split.

    With `model.normalisation=speaker` the module's batches then carry the statistics of their speakers.
    """
    model = build_model(parts, settings, module.task, widths=module.feature_dims, layers=module.layers)
    by_speaker = [name for name, item in model.normalisation.items() if item.kind == "speaker"]
    module.carry_speaker_statistics({name: front_of(model, name) for name in by_speaker})
    if module.task.kind == "classification":
        parts.loss.fit(module.tables["train"].class_counts())
    for other in parts.others:
        target, known = module.tables["train"].others[other.task.name]
        if other.task.kind == "classification":
            other.loss.fit(torch.bincount(target[known], minlength=len(other.task.labels)))
    return model


def fit_statistics(model: EmotionModel, module: UtteranceDataModule) -> None:
    """Fits what is not learned by gradients to the training split: normalisation, and where regression starts."""
    table = module.tables["train"]
    for modality, normalisation in model.normalisation.items():
        assert isinstance(normalisation, Normalisation)
        if normalisation.kind != "none":
            front = front_of(model, modality)
            size = STATISTICS_BATCH if front is None else FRONT_BATCH
            normalisation.fit(*table.feature_statistics(modality, front=front, batch_size=size))
    if module.task.kind == "regression" and not isinstance(model.head, ClassicalHead):
        start = model.fusion if model.head is None else model.head
        assert isinstance(start, Head | WeightedLogits)
        start.start_at(float(table.target.nanmean()))
    for name, (target, known) in table.others.items():
        if target.is_floating_point() and bool(known.any()):
            head = model.others.heads[name] if model.others is not None else None
            assert isinstance(head, Head)
            head.start_at(float(target[known].mean()))


def fit_encoded(model: EmotionModel, module: UtteranceDataModule, device: str) -> None:
    """Fits the standardisation of what encoders that train give: to the training split, with the weights that they have
    now.

    Args:
        device: that they compute on.
    """
    for modality, normalisation in model.encoded.items():
        assert isinstance(normalisation, Normalisation)
        part: Any = model.encoder[modality]
        inputs: Any = model.normalisation[modality]
        was_training = part.training
        parts = [item.to(device).eval() for item in (part, inputs)]

        def features(values: Tensor, mask: Tensor, parts: Sequence[Any] = parts) -> tuple[Tensor, Tensor]:
            part, inputs = parts
            values, mask = values.to(device), mask.to(device)
            with torch.inference_mode():
                if part.front is not None:
                    values, mask = part.front(values, mask)
                if part.standardised:
                    values = inputs(values.float())
                found, mask = part(values, mask, mask.any(1))
            return found.cpu(), mask.cpu()

        statistics = module.tables["train"].feature_statistics(modality, front=features, batch_size=FRONT_BATCH)
        for item in parts:
            item.cpu().train(was_training)
        normalisation.fit(*statistics)


def front_of(model: EmotionModel, modality: str) -> Any:
    """What comes before the standardisation of a modality's inputs; `None` where nothing does."""
    return getattr(model.encoder[modality], "front", None) if modality in model.encoder else None


def layer_counts(components: Mapping[str, Mapping[str, Tensor]], modalities: Iterable[str]) -> dict[str, int]:
    """{modality: number of layers} that a model with these weights reads."""
    counts = {name.partition(".")[0]: len(scores) for name, scores in components.get("layer_sum", {}).items()}
    return {modality: counts.get(modality, 1) for modality in modalities}


def feature_widths(components: Mapping[str, Mapping[str, Tensor]]) -> dict[str, int]:
    """{modality: width of the features} that a model with these weights reads, of all layers side by side."""
    if "projection" not in components:
        return stored_widths(components["fusion"])
    widths = {
        name.partition(".")[0]: int(weights.shape[1])
        for name, weights in components["projection"].items()
        if weights.dim() == 2  # (H, D)
    }
    layers = layer_counts(components, widths)
    return {modality: width * layers[modality] for modality, width in widths.items()}
