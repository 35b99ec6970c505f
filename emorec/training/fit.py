"""One training, from the seed to the results."""

import copy
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

import emorec
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.loggers.base import RunLogger
from emorec.machine import keep_freed_memory
from emorec.models.builder import fit_encoded, fit_statistics, model_for
from emorec.models.classical import ClassicalHead
from emorec.models.emotion_model import EmotionModel, Predictions
from emorec.progress import Progress
from emorec.runs.checkpoint_store import RunRecord
from emorec.runs.results import write_results
from emorec.training.callbacks.best_weights import BestWeights
from emorec.training.callbacks.early_stopping import ResumableEarlyStopping
from emorec.training.callbacks.history import History
from emorec.training.callbacks.moving_average import MovingAverage
from emorec.training.callbacks.save_states import SaveStates
from emorec.training.classical import fit_head
from emorec.training.evaluation import predict, predict_test
from emorec.training.preemption import Preemption
from emorec.training.publishing import backbones, publish
from emorec.training.run_context import RunContext
from emorec.training.selection import selection_of
from emorec.training.states import misfit
from emorec.training.threads import training_threads
from emorec.training.trainer import make_trainer

log = logging.getLogger(__name__)


def fit(
    context: RunContext,
    record: RunRecord,
    state: Path | None,
    *,
    owned: Callable[[], bool],
    preemption: Preemption,
    loggers: Sequence[RunLogger] = (),
) -> dict[str, Any]:
    """Trains, and fills the run's directory and record; returns the metrics.

    Args:
        context: the run.
        record: changed in place: timings, epochs, weights, reads of test, status.
        state: to resume from.
        owned: false once another process has taken the run over.
        preemption: knows of signals.
        loggers: are called after each epoch.
    """
    config = context.config
    rank = int(os.environ.get("RANK", "0")) if config.trainer.world_size > 1 else 0
    with training_threads(config.trainer, trains_encoders=bool(context.parts.encoders)) as threads:
        record.provenance["threads"] = threads
        if context.parts.encoders:
            keep_freed_memory()
        _seed(config.seed)
        backbones(context)  # what cannot be published is told of before training
        with _timed(record, "setup"):
            module = context.data.module(config)
            # Lightning leaves modules in the mode that they have, and pretrained networks are loaded for evaluation
            model = model_for(context.parts, config.model, module).train()
            fit_statistics(model, module)
            module.tables["train"].teacher = context.taught
            if context.initial is not None and state is None:
                context.initial.load_into(model)
            if model.encoded and state is None:
                fit_encoded(model, module, "cpu" if config.trainer.accelerator == "cpu" else own_device())
        counts = ", ".join(f"{split} {len(items)}" for split, items in context.data.splits.items())
        log.info("run %s: %s utterances; trained parameters: %s", record.run_id, counts, _described(model))
        if context.config.test and not context.reads_test:
            log.info("run %s: test is not read, since nothing is predicted", record.run_id)

        if isinstance(model.head, ClassicalHead):
            return _fit_classical(context, record, model, module, loggers)

        # a strategy that shards takes the model apart: the best weights then go into a copy
        final_model = copy.deepcopy(model) if config.trainer.strategy == "fsdp" else model
        with Progress(f"run {record.run_id}", config.trainer.max_epochs, config.progress and not rank) as progress:
            history, best, callbacks = _callbacks(context, progress, () if rank else loggers, owned, preemption)
            trainer = make_trainer(config.trainer, callbacks, context.folder)
            with _timed(record, "training"), exact_float32():
                _run(trainer, model, module, state, preemption)
        if rank:
            return {}

        history.write()
        _note_training(record, history, best)
        final_model.load_state_dict(best.load(), strict=True)
        return _finish(context, record, final_model, module)


def _fit_classical(
    context: RunContext,
    record: RunRecord,
    model: EmotionModel,
    module: UtteranceDataModule,
    loggers: Sequence[RunLogger],
) -> dict[str, Any]:
    """Fits a classical head instead of training; returns the metrics."""
    assert isinstance(model.head, ClassicalHead)
    monitor, count = f"val/{context.data.task.monitor}", len(model.head.grid)
    with Progress(f"run {record.run_id}", count, context.config.progress) as progress:
        path = context.folder / "history.csv"
        history = History(path=path, monitor=monitor, progress=progress, loggers=loggers)
        with _timed(record, "training"), exact_float32():
            fit_head(context, record, model, module, history)
    history.write()
    return _finish(context, record, model, module)


def _finish(context: RunContext, record: RunRecord, model: EmotionModel, module: UtteranceDataModule) -> dict[str, Any]:
    """Fills the directory of a run with what a model has become, and its record; returns the metrics."""
    with _timed(record, "evaluation"):
        predictions = _predictions(context, model, module, record)
    metrics = write_results(context.folder, predictions, module.task, context.data.others, module.utterances)
    publish(context, model, record)
    record.status = "finished"
    return metrics


def _seed(seed: int) -> None:
    lightning.seed_everything(seed, verbose=False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a second write


def _described(model: EmotionModel) -> str:
    """How many parameters of each component train, and of how many."""
    if isinstance(model.head, ClassicalHead):
        return f"none by gradients ({type(model.head).__name__})"
    counts = model.parameter_counts()
    parts = [f"{name} {own:,}{f' of {every:,}' if own < every else ''}" for name, (own, every) in counts.items()]
    return f"{sum(own for own, _ in counts.values()):,} ({', '.join(parts)})"


def _callbacks(
    context: RunContext,
    progress: Progress,
    loggers: Sequence[RunLogger],
    owned: Callable[[], bool],
    preemption: Preemption,
) -> tuple[History, BestWeights, list[lightning.Callback]]:
    config, task, resume = context.config, context.data.task, context.folder / "resume"
    monitor, patience = f"val/{task.monitor}", config.trainer.patience
    callbacks: list[lightning.Callback] = []
    if patience is not None:
        callbacks.append(
            ResumableEarlyStopping(monitor, mode=task.direction, patience=patience, check_on_train_epoch_end=False)
        )
    if config.trainer.ema is not None:
        callbacks.append(MovingAverage(decay=config.trainer.ema))
    history = History(path=context.folder / "history.csv", monitor=monitor, progress=progress, loggers=loggers)
    selection = selection_of(config.model)
    best = BestWeights(folder=resume, monitor=monitor, direction=task.direction, owned=owned, selection=selection)
    seconds = config.checkpoint.every_seconds
    saver = SaveStates(folder=resume, every_seconds=seconds, owned=owned, preemption=preemption, seed=config.seed)
    return history, best, [*callbacks, history, best, saver]  # a saved state holds what the others did before


def _note_training(record: RunRecord, history: History, best: BestWeights) -> None:
    """Notes how the training went.

    Raises:
        UserError: no epoch has finite results.
    """
    if history.first_step is not None:
        record.timings["process_to_first_step"] = round(history.first_step - emorec.STARTED, 3)
    if best.epoch is None:
        raise UserError(f"expected an epoch with finite results, got none: {best.diverged or 'the training diverged'}")
    if best.diverged:
        log.warning("%s: epochs whose results are not finite are not kept", best.diverged)
    record.epochs, record.best_epoch = len(history.rows), best.epoch
    if len(best.epochs) > 1:
        record.averaged_epochs = list(best.epochs)


def _predictions(
    context: RunContext, model: EmotionModel, module: UtteranceDataModule, record: RunRecord
) -> dict[str, Predictions]:
    """Predictions of the selected weights for val, and for test where the config asks for it.

    Raises:
        UserError: those for val are not finite.
    """
    predictions = {"val": predict(model, module.loader("val"), context.config.trainer)}
    if utterances := predictions["val"].not_finite():
        where = f"the logits of {len(utterances)} utterances of val ({utterances[0]}, …) are not"
        raise UserError(f"expected finite predictions of {record.selected}: {where}")
    if model.calibration is not None:
        model.calibration.fit(predictions["val"].logits, predictions["val"].target)
        log.info("run %s: temperature of the probabilities %.3f", record.run_id, float(model.calibration.temperature))
        predictions["val"] = predict(model, module.loader("val"), context.config.trainer)
    if context.reads_test:
        predictions["test"] = predict_test(context, model, module, record)
    return predictions


def _run(
    trainer: lightning.Trainer,
    model: EmotionModel,
    module: UtteranceDataModule,
    state: Path | None,
    preemption: Preemption,
) -> None:
    preemption.deferred = True  # a signal waits for the end of the step
    try:
        trainer.fit(model, datamodule=module, ckpt_path=None if state is None else str(state), weights_only=True)
    except SystemExit as ended:  # Lightning makes one of a KeyboardInterrupt, and ignores further ones
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from ended
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if state is None or any(isinstance(item, SaveStates) and item.started for item in trainer.callbacks):  # type: ignore[attr-defined]
            raise
        raise misfit(state, error) from error
    preemption.deferred = False


@contextmanager
def _timed(record: RunRecord, step: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        record.timings[step] = round(record.timings.get(step, 0.0) + time.monotonic() - started, 3)
