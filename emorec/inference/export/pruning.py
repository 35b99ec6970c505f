"""Structured pruning: whole units of the model's width are removed, and what is left is trained again."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn

from emorec.config.schema import ExportConfig, TrainConfig
from emorec.datamodules.prepared_data import PreparedData
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.errors import UserError, raise_problems
from emorec.features.devices import exact_float32
from emorec.inference.export.validation import prepared
from emorec.inference.loaded_run import LoadedRun
from emorec.models.builder import make_parts, model_for
from emorec.models.emotion_model import EmotionModel
from emorec.training.callbacks.best_weights import BestWeights
from emorec.training.evaluation import predict
from emorec.training.selection import selection_of
from emorec.training.trainer import make_trainer


@dataclass(frozen=True)
class Pruning:
    """What pruning changes."""

    share: float  # of the units that were to be removed
    hidden: dict[str, int]  # {"before" or "after": `model.hidden`}
    parameters: dict[str, int]  # {"before" or "after": number of the model's own parameters}
    score: str  # name of the score on validation
    # {"before", "untrained" or "after": the score}; "untrained" is that before it was trained again
    scores: dict[str, float]
    epochs: int  # number of epochs that it was trained again
    best_epoch: int  # whose weights are kept, chosen on validation

    def line(self) -> str:
        """It in words."""
        counts, scores = self.parameters, self.scores
        widths = f"model.hidden {self.hidden['before']} to {self.hidden['after']}"
        sizes = f"parameters {counts['before']:,} to {counts['after']:,}"
        values = f"val/{self.score} {scores['before']:.4f} to {scores['after']:.4f}"
        training = f"epoch {self.best_epoch} of {self.epochs}; {scores['untrained']:.4f} without further training"
        return f"pruned: {widths}, {sizes}, {values} ({training})"


def pruned(run: LoadedRun, command: ExportConfig) -> tuple[EmotionModel, Pruning]:
    """A model with fewer units, trained again on the run's training split with the run's settings.

    The units with the smallest weights go. Encoders are not made narrower. The epoch is chosen on validation; there is
    no early stopping and no moving average.

    Raises:
        UserError: a part of the model cannot be made narrower, or the run's corpus cannot be read.
    """
    assert command.prune is not None
    data, config = prepared(run, command)
    if config.distillation.teacher is not None:
        raise UserError(
            f"prune: expected a run without a teacher, got distillation.teacher={config.distillation.teacher}"
        )
    if config.head is not None:
        raise UserError(f"prune: expected null for head={config.head.target.__name__}, which has no units to remove")
    groups = _heads(run.model, config.model.hidden)
    kept = max(1, round(config.model.hidden * (1 - command.prune) / groups)) * groups
    module = data.module(config)
    narrow = _narrow_model(run, replace(config, model=replace(config.model, hidden=kept)), data, module)
    load_units(narrow, run.model, config.model.hidden, kept, groups)
    score = data.task.monitor
    scores = {
        name: predict(model, module.loader("val"), config.trainer).scores[score]
        for name, model in {"before": _with_metrics(run.model, narrow), "untrained": narrow}.items()
    }
    best_epoch, scores["after"] = _train(narrow, config, module, command.prune_epochs)
    counts = {"before": _count(run.model), "after": _count(narrow)}
    hidden = {"before": config.model.hidden, "after": kept}
    return narrow, Pruning(command.prune, hidden, counts, score, scores, command.prune_epochs, best_epoch)


def _narrow_model(run: LoadedRun, config: TrainConfig, data: PreparedData, module: UtteranceDataModule) -> EmotionModel:
    """A model of another width, with new weights.

    Raises:
        UserError: a part does not take the width.
    """
    return model_for(make_parts(config, data.task, run.encoders, data.others), config.model, module)


def _with_metrics(model: EmotionModel, other: EmotionModel) -> EmotionModel:
    """A model with the metrics of another one: that of a loaded run has none."""
    model.metrics = other.metrics
    return model


def _heads(model: EmotionModel, hidden: int) -> int:
    """The number of groups of units that attention needs to keep their size: the heads of layers of this width."""
    attentions = [part for part in model.modules() if isinstance(part, nn.MultiheadAttention)]
    return math.lcm(1, *(part.num_heads for part in attentions if part.embed_dim == hidden))


def _count(model: EmotionModel) -> int:
    return sum(item.numel() for item in model.parameters())


def load_units(narrow: EmotionModel, wide: EmotionModel, before: int, after: int, groups: int) -> None:
    """Copies the units of a model that weigh most into a narrower one, as many of each group.

    A dimension that differs between the models holds the units once or several times, one after the other: the units of
    several modalities, or the gates of a recurrent layer.

    Raises:
        UserError: a dimension differs otherwise.
    """
    old, new = wide.state_dict(), narrow.state_dict()
    blocks = {name: _blocks(old[name], value, before, after) for name, value in new.items() if name in old}
    raise_problems(
        "prune",
        [
            f"expected weights in units of model.hidden={before}, got {name} of {tuple(old[name].shape)}, which would "
            f"be {tuple(new[name].shape)}"
            for name, found in blocks.items()
            if found is None
        ],
    )
    known = {name: found for name, found in blocks.items() if found is not None}
    units = strongest_units({name: (old[name], found) for name, found in known.items()}, before, after, groups)
    narrow.load_state_dict({**new, **{name: _taken(old[name], found, units, before) for name, found in known.items()}})


def _blocks(old: Tensor, new: Tensor, before: int, after: int) -> dict[int, int] | None:
    """{dimension that differs: how many times it holds all units}; `None` where it holds something else."""
    found = {}
    for number, (wide, narrow) in enumerate(zip(old.shape, new.shape, strict=True)):
        if wide != narrow:
            count = wide // before
            if (count * before, count * after) != (wide, narrow):
                return None
            found[number] = count
    return found


def strongest_units(
    weights: Mapping[str, tuple[Tensor, Mapping[int, int]]], before: int, after: int, groups: int
) -> Tensor:
    """(after,) the numbers of the units with the largest L2 norm over all weights, in order, as many of each group.

    Args:
        weights: {name: (weight, {dimension: how many times it holds all units})}.
        before: number of all units.
        after: number of those that are kept.
        groups: of neighbours.
    """
    squares = torch.zeros(before, dtype=torch.float64)
    for weight, dimensions in weights.values():
        for number, count in dimensions.items():
            others = [other for other in range(weight.dim()) if other != number]
            energy = weight.double().square().sum(others) if others else weight.double().square()
            squares += energy.view(count, before).sum(0)
    size = before // groups
    best = squares.view(groups, size).topk(after // groups, dim=1).indices.sort(1).values  # (groups, after / groups)
    return (best + size * torch.arange(groups)[:, None]).flatten()


def _taken(weight: Tensor, dimensions: Mapping[int, int], units: Tensor, before: int) -> Tensor:
    """The units of a weight that are kept."""
    for number, count in dimensions.items():
        index = (units + before * torch.arange(count)[:, None]).flatten()
        weight = weight.index_select(number, index)
    return weight


def _train(model: EmotionModel, config: TrainConfig, module: UtteranceDataModule, epochs: int) -> tuple[int, float]:
    """Trains a model, and leaves the weights that are best on validation in it; returns their epoch and score.

    Raises:
        UserError: no epoch has finite results.
    """
    lightning.seed_everything(config.seed, verbose=False)
    settings = replace(config.trainer, max_epochs=epochs, devices=1)
    task = module.task
    with tempfile.TemporaryDirectory(prefix="emorec_prune_") as place, exact_float32():
        folder = Path(place)
        best = BestWeights(
            folder=folder,
            monitor=f"val/{task.monitor}",
            direction=task.direction,
            owned=lambda: True,
            selection=selection_of(config.model),
        )
        make_trainer(settings, [best], folder).fit(model.train(), datamodule=module)
        if best.epoch is None:
            raise UserError(f"prune: expected an epoch with finite results, got none: {best.diverged}")
        model.load_state_dict(best.load(), strict=True)
    model.cpu().eval()
    found = predict(model, module.loader("val"), config.trainer)
    if model.calibration is not None:
        temperature = model.calibration.temperature.clone()
        model.calibration.fit(found.logits * temperature.to(found.logits.device), found.target)
    model.cpu()
    return best.epoch, found.scores[task.monitor]
