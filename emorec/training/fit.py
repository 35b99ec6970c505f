"""Trains a run, chooses its best epoch on validation, and reads test once."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

import emorec
from emorec.batch import Batch
from emorec.models.builder import build_model, parameter_count
from emorec.training.run_context import Job, now
from emorec.training.distributed import cluster_environment, world_size
from emorec.runs.results import write_results
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.models.emotion_model import EmotionModel, Predictions
from emorec.progress import Progress
from emorec.models.lightning_overhead import EpochCallback
from emorec.runs.checkpoint_store import RunRecord
from emorec.training.callbacks.history import History
from emorec.loggers.base import RunObserver
from emorec.training.preemption import Preemption
from emorec.training.callbacks.save_states import AtomicCheckpointIO, SaveStates

log = logging.getLogger(__name__)

# Lightning sets it to "1" for programs that fork; emorec does not, and torch would load NVML anew at every step.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # with which products on a GPU are deterministic


def fit(
    job: Job,
    record: RunRecord,
    state: Path | None,
    *,
    owned: Callable[[], bool],
    preemption: Preemption,
    observers: Sequence[RunObserver] = (),
) -> dict[str, Any]:
    """Trains, and fills the run's directory and record; returns the metrics.

    Args:
        job: the run.
        record: changed in place: timings, epochs, weights, reads of test, status.
        state: where to go on from.
        owned: false once another process has taken the run over.
        preemption: tells of signals.
        observers: are told of each epoch.
    """
    config, folder = job.composed.config, job.folder
    lightning.seed_everything(config["seed"], verbose=False)
    rank = int(os.environ.get("RANK", "0")) if world_size(config) > 1 else 0
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a second write each
    with _timed(record, "setup"):
        module = job.data.module(config)
        model = build_model(config, module, fit_normalisation=True)
    counts = ", ".join(f"{split} {len(items)}" for split, items in job.data.splits.items())
    log.info("run %s: %s utterances; %d parameters", record.run_id, counts, parameter_count(model))
    epochs = config["trainer"]["max_epochs"]
    with (
        Progress(f"run {record.run_id}", epochs, config["progress"] and not rank) as progress,
        _timed(record, "training"),
        exact_float32(),  # precision=32 means it
    ):
        history = History(
            path=folder / "history.csv",
            monitor=f"val/{module.task.monitor}",
            direction=module.task.direction,
            progress=progress,
            observers=() if rank else observers,
        )
        saver = SaveStates(
            folder=folder / "resume",
            every_seconds=config["checkpoint"]["every_seconds"],
            owned=owned,
            preemption=preemption,
            seed=config["seed"],
        )
        preemption.deferred = True
        _fit(_trainer(config, folder, history, saver), model, module, state)
    preemption.deferred = False
    if rank:
        return {}
    del model  # of several ranks' parts; the best epoch's is made anew
    return _results(job, record, module, history)


def _results(job: Job, record: RunRecord, module: UtteranceDataModule, history: History) -> dict[str, Any]:
    """Takes the best epoch's weights, evaluates them, and writes down what came out."""
    config, folder = job.composed.config, job.folder
    if history.first_step is not None:
        record.timings["process_to_first_step"] = round(history.first_step - emorec.STARTED, 3)
    if history.best_epoch is None:
        raise UserError(f"expected a number for {history.monitor} in some epoch, got none: the training diverged")
    model = build_model(config, module, fit_normalisation=False)  # the trained one may be in parts on several ranks
    model.load_state_dict(history.best_weights, strict=True)
    record.epochs, record.best_epoch = len(history.rows), history.best_epoch
    with _timed(record, "evaluation"):
        predictions = {"val": predict(model, module.loader("val"), config)}
        if config["test"]:
            predictions["test"] = _predict_test(model, module, job, record)
    history.write()
    metrics = write_results(folder, predictions, module.task)
    record.weights = job.store.publish(record.run_id, model.components())
    record.status = "finished"
    return metrics


def _fit(trainer: lightning.Trainer, model: EmotionModel, module: UtteranceDataModule, state: Path | None) -> None:
    try:
        trainer.fit(model, datamodule=module, ckpt_path=None if state is None else str(state), weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"expected tensors and primitives alone in the saved state {state}, got others: {error}"
        ) from error
    except SystemExit as ended:  # Lightning makes one of a KeyboardInterrupt, and ignores further ones
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from ended


def read_test(job: Job, record: RunRecord) -> dict[str, Any]:
    """Reads test with the stored weights of a run that was trained with `test=false`; returns the metrics."""
    config = job.composed.config
    module = job.data.module(config)
    model = build_model(config, module, fit_normalisation=False)
    load_weights(model, job.store.load(record), record.run_id)
    predictions = {"val": predict(model, module.loader("val"), config)}
    predictions["test"] = _predict_test(model, module, job, record)
    return write_results(job.folder, predictions, module.task)


def load_weights(model: EmotionModel, components: dict[str, dict[str, torch.Tensor]], run_id: str) -> None:
    """Gives a model the stored weights of a run.

    Raises:
        UserError: they are not the weights of such a model.
    """
    try:
        model.load_components(components)
    except RuntimeError as error:
        raise UserError(f"expected the weights of run {run_id} to fit its model: {error}") from error


@contextmanager
def _timed(record: RunRecord, step: str) -> Any:
    started = time.monotonic()
    try:
        yield
    finally:
        record.timings[step] = round(record.timings.get(step, 0.0) + time.monotonic() - started, 3)


def predict(model: EmotionModel, batches: Iterable[Batch], config: Mapping[str, Any]) -> Predictions:
    """Applies a model where, and in the precision in which, the config trains: Lightning leaves it on the CPU."""
    settings = config["trainer"]
    with exact_float32():
        return model.to(evaluation_device(settings)).predict(batches, precision=str(settings["precision"]))


def evaluation_device(settings: Mapping[str, Any]) -> str:
    """The device on which a config's `trainer` trains in this process."""
    return "cpu" if settings["accelerator"] == "cpu" else own_device()


def _predict_test(model: EmotionModel, module: UtteranceDataModule, job: Job, record: RunRecord) -> Predictions:
    record.test_reads.append({"time": now(), "why": f"best epoch {record.best_epoch}"})
    job.store.write(record)  # before the read, so that a kill does not lose it
    return predict(model, module.loader("test"), job.composed.config)


class ResumableEarlyStopping(EarlyStopping, EpochCallback):
    """Early stopping that a run resumed after its last epoch remembers, instead of training one epoch more."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class NoProfiler(Profiler):
    """Measures nothing, and takes no time for it: Lightning asks for a context dozens of times a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._nothing

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass


def _strategy(name: str, ranks: int) -> Any:
    if name == "auto":
        name = "ddp" if ranks > 1 else "auto"
    if name == "fsdp":
        return ModelParallelStrategy(ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)
    if name != "ddp":
        return name
    # buffers are statistics of the data, the same on each rank; sent at each step, they would hang an evaluation in
    # which ranks have different numbers of batches
    return DDPStrategy(broadcast_buffers=False, find_unused_parameters=False)


def _trainer(config: dict[str, Any], folder: Path, history: History, saver: SaveStates) -> lightning.Trainer:
    settings, ranks = config["trainer"], world_size(config)
    plugins = [AtomicCheckpointIO(), cluster_environment(ranks)]
    callbacks: list[lightning.Callback] = []
    if settings["patience"] is not None:
        callbacks.append(
            ResumableEarlyStopping(
                history.monitor,
                mode=history.direction,
                patience=settings["patience"],
                check_on_train_epoch_end=False,
            )
        )
    return lightning.Trainer(
        max_epochs=settings["max_epochs"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        num_nodes=settings["num_nodes"],
        strategy=_strategy(str(settings["strategy"]), ranks),
        precision=settings["precision"],
        gradient_clip_val=settings["gradient_clip"],
        callbacks=[*callbacks, history, saver],
        plugins=plugins,
        default_root_dir=folder,
        profiler=NoProfiler(),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
