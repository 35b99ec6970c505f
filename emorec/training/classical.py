"""Fits a classical head: once for each value of its parameter, of which the best on validation is kept."""

import logging
import time
import warnings
from math import isfinite
from typing import Any

from torch import Tensor

from emorec.datamodules.utterances import UtteranceDataModule
from emorec.errors import UserError
from emorec.models.classical import ClassicalHead
from emorec.models.emotion_model import EmotionModel
from emorec.runs.checkpoint_store import RunRecord
from emorec.training.callbacks.history import History
from emorec.training.evaluation import predict
from emorec.training.run_context import RunContext

log = logging.getLogger(__name__)


def fit_head(
    context: RunContext, record: RunRecord, model: EmotionModel, module: UtteranceDataModule, history: History
) -> None:
    """Fits the head of a model to the training split, and notes the value of its parameter in the record.

    Args:
        context: the run.
        record: changed in place.
        model: with fitted normalisations.
        module: of the same features.
        history: gets a row for each value.

    Raises:
        UserError: no value has a finite score.
    """
    head, task = model.head, context.data.task
    assert isinstance(head, ClassicalHead)
    features, target = _training_data(model, module)
    sign, best, weights = 1 if task.direction == "max" else -1, -1, dict[str, Tensor]()
    scores: list[float] = []
    for value in head.grid:
        started = time.monotonic()
        _fit(head, features, target, value, context.config.seed)
        found = predict(model, module.loader("val"), context.config.trainer).scores
        scores.append(sign * found[task.monitor])
        if isfinite(scores[-1]) and (best < 0 or scores[-1] > scores[best]):
            best, weights = len(scores) - 1, {name: item.clone() for name, item in head.state_dict().items()}
        row: dict[str, Any] = {"epoch": len(scores) - 1, "step": len(scores), head.parameter: value}
        seconds = round(time.monotonic() - started, 4)
        history.add({**row, "seconds": seconds, **{f"val/{name}": score for name, score in found.items()}})
    if best < 0:
        raise UserError(f"expected a finite val/{task.monitor} for a value of head.{head.parameter}, got none")
    head.load_state_dict(weights)
    record.epochs, record.best_epoch = len(scores), best
    record.chosen = {head.parameter: head.grid[best]}
    log.info("run %s: %s, of %s on validation", record.run_id, record.selected, list(head.grid))


def _training_data(model: EmotionModel, module: UtteranceDataModule) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) and targets (N,) of the training split, on the CPU."""
    table = module.tables["train"]
    return model.fused_vectors(module.loader("train"))[table.has_target], table.target[table.has_target]


def _fit(head: ClassicalHead, features: Tensor, target: Tensor, value: float, seed: int) -> None:
    """Fits the head; a warning of scikit-learn names the value."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        head.fit(features, target, value, seed=seed)
    for message in dict.fromkeys(str(item.message).partition("\n")[0] for item in caught):
        log.warning("%s=%g: %s", head.parameter, value, message)
