"""Puts a model together from a config."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from emorec.batch import MODALITIES, ConfigurationError
from emorec.config.instantiation import instantiate
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.utterance import Task
from emorec.errors import UserError, raise_problems
from emorec.losses.loss import Loss
from emorec.models.emotion_model import EmotionModel
from emorec.models.heads import Head
from emorec.models.layer_sum import LayerSum
from emorec.models.normalisation import Normalisation
from emorec.models.projection import Projection


def build_model(config: Mapping[str, Any], module: UtteranceDataModule, *, fit_normalisation: bool) -> EmotionModel:
    """The model of a config, for the dimensions of its data.

    Args:
        config: resolved, primitives only.
        module: the data.
        fit_normalisation: whether statistics are taken from the training split; false where weights will be loaded.

    Raises:
        UserError: a part's arguments do not fit.
    """
    settings, task = config["model"], module.task
    hidden, dropout = settings["hidden"], settings["dropout"]
    dims = module.feature_dims
    normalisations: dict[str, nn.Module] = {}
    layer_sums: dict[str, nn.Module] = {}
    projections: dict[str, nn.Module] = {}
    for modality, dim in dims.items():
        normalisation = Normalisation(kind=settings["normalisation"], dim=dim)
        if fit_normalisation and settings["normalisation"] != "none":
            normalisation.fit(*module.tables["train"].feature_statistics(modality))
        normalisations[modality] = normalisation
        layers = module.layers[modality]
        if layers > 1:
            layer_sums[modality] = LayerSum(layers)
        projections[modality] = Projection(dim=dim // layers, hidden=hidden, dropout=dropout)
    classes = task.kind == "classification"
    table = module.tables["train"]
    try:
        fusion = _fusion(config, dims)
        loss = _loss(config, task, table.class_counts() if classes else torch.zeros(0))
    except ConfigurationError as error:
        raise UserError(str(error)) from error
    return EmotionModel(
        task=task,
        normalisations=normalisations,
        layer_sums=layer_sums,
        projections=projections,
        fusion=fusion,
        head=Head(
            hidden=hidden,
            outputs=len(task.labels),
            dropout=dropout,
            start=None if classes else float(table.target.nanmean()),
        ),
        loss=loss,
        make_optimizer=lambda parameters: _optimizer(config, parameters),
        make_scheduler=None if config["scheduler"] is None else lambda *given: _schedule(config["scheduler"], *given),
    )


def check_parts(config: Mapping[str, Any], task: Task) -> None:
    """Makes the parts of a model that need no data, to see that their arguments fit before anything is computed.

    Raises:
        UserError: says of each part what does not fit.
    """
    modalities = [name for name in MODALITIES if config["encoder"].get(name) is not None]
    problems: list[str] = []
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("fusion", lambda: _fusion(config, modalities)),
        ("loss", lambda: _loss(config, task, torch.ones(len(task.labels), dtype=torch.long))),
        ("optimizer", lambda: _optimizer(config, [nn.Parameter(torch.zeros(1))])),
    ]
    if config["scheduler"] is not None:
        made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        parts.append(("scheduler", lambda: _schedule(config["scheduler"], made, 1000)))
    for name, make in parts if modalities else []:
        try:
            make()
        except (ConfigurationError, UserError) as error:
            problems.append(str(error))
        except (TypeError, ValueError) as error:
            problems.append(f"{name}: {error} ({type(error).__name__})")
    raise_problems("the config", problems)


def _fusion(config: Mapping[str, Any], modalities: Iterable[str]) -> nn.Module:
    hidden = config["model"]["hidden"]
    dims = dict.fromkeys(modalities, hidden)
    return instantiate(config["fusion"], where="fusion", kind=nn.Module, dims=dims, hidden=hidden)


def _loss(config: Mapping[str, Any], task: Task, class_counts: Tensor) -> Loss:
    counts = {"class_counts": class_counts} if task.kind == "classification" else {}
    return instantiate(config["loss"], where="loss", kind=Loss, task=task.name, **counts)  # type: ignore[type-abstract]


def feature_widths(components: Mapping[str, Mapping[str, Tensor]]) -> dict[str, int]:
    """{modality: width of the features} that a model with these weights reads, of all layers side by side."""
    widths = {}
    layers = {name.partition(".")[0]: len(scores) for name, scores in components.get("layer_sum", {}).items()}
    for name, weights in components["projection"].items():
        if weights.dim() == 2:  # (H, D)
            modality = name.partition(".")[0]
            widths[modality] = int(weights.shape[1]) * layers.get(modality, 1)
    return widths


def _optimizer(config: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    settings, trained = config["optimizer"], list(parameters)
    # torch's own choice on a CPU is a Python loop over the parameters, three times as slow for a small head;
    # Lightning refuses to clip the gradients of a fused one under autocast
    on_cpu = all(parameter.device.type == "cpu" for parameter in trained)
    whole = str(config["trainer"]["precision"]) in ("32", "32-true")
    fused = on_cpu and whole and "fused" not in settings and _can_fuse(settings)
    return instantiate(
        settings, where="optimizer", kind=Optimizer, params=trained, **({"fused": True} if fused else {})
    )


def _can_fuse(settings: Mapping[str, Any]) -> bool:
    made = getattr(torch.optim, str(settings["_target_"]).removeprefix("torch.optim."), None)
    return made is not None and "fused" in inspect.signature(made).parameters


def _schedule(settings: Mapping[str, Any], optimizer: Optimizer, total_steps: int) -> Any:
    return instantiate(settings, where="scheduler", optimizer=optimizer, total_steps=total_steps)


def parameter_count(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
