"""Applies trained models: to validation and test after training, and to other data later."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emorec.batch import Batch
from emorec.config.composition import Composed
from emorec.config.keys import LOCATIONS, OPERATIONAL
from emorec.config.schema import EvaluateConfig, TrainConfig, TrainerConfig
from emorec.config.validation import validated
from emorec.datamodules.leakage import check_not_trained_on
from emorec.datamodules.prepared_data import PreparedData
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.utterance import UNLABELLED
from emorec.errors import UserError, raise_problems
from emorec.features.devices import exact_float32, own_device
from emorec.models.builder import feature_widths, make_parts, model_for, restore_encoders
from emorec.models.emotion_model import EmotionModel, Predictions
from emorec.runs.backbones import check_checkpoint, with_present_models
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord, stored_config, stored_task, write_record
from emorec.runs.results import MISSING, SHOWN, metric_text, remarks, scalar_metrics, write_results
from emorec.runs.weights import load_components
from emorec.storage.atomic import write_json
from emorec.storage.digests import digest_of
from emorec.training.missing import at_rate, grid, grid_table
from emorec.training.run_context import RunContext, now

log = logging.getLogger(__name__)

WHOLE = "all"  # splits of another corpus


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished run, applied to a split."""

    text: str  # a line that sums it up, and a table where that was asked for
    target: Path  # the folder with the metrics and predictions
    split: str  # as asked for: "train", "val", "test" or "all"
    record: RunRecord  # of the run
    folder: Path  # of the run
    models: Mapping[str, str]  # {modality: folder of the checkpoint of its encoder}, where it lies elsewhere now
    config: TrainConfig  # of the run, with the corpus that was read
    data: PreparedData  # the corpus, its splits and features
    model: EmotionModel  # with the weights of the run
    batches: Callable[[], Iterable[Batch]]  # reads the utterances of the split anew
    utterances: int  # number of those that were predicted
    metrics: Mapping[str, float]  # {`<split>/<metric>`: value}

    @property
    def loaded_split(self) -> str:
        """The key of the split in `data`."""
        return "test" if self.split == WHOLE else self.split

    def predict(self, batches: Iterable[Batch]) -> Predictions:
        """What the run predicts."""
        return predict(self.model, batches, self.config.trainer)


def predict(model: EmotionModel, batches: Iterable[Batch], settings: TrainerConfig) -> Predictions:
    """Applies a model on the device and in the precision of the config; Lightning leaves it on the CPU."""
    device = "cpu" if settings.accelerator == "cpu" else own_device()
    with exact_float32():
        return model.to(device).predict(batches, precision=str(settings.precision))


def predict_test(
    context: RunContext, model: EmotionModel, module: UtteranceDataModule, record: RunRecord
) -> Predictions:
    """Reads the test split, and notes it in the run's record."""
    record.test_reads.append({"time": now(), "why": record.selected})
    context.store.write(record)  # before the read, so that a kill does not lose it
    return predict(model, module.loader("test"), context.config.trainer)


def read_test_later(context: RunContext, record: RunRecord) -> dict[str, Any]:
    """Reads test with the stored weights of a run that was trained with `test=false`; returns the metrics."""
    module = context.data.module(context.config)
    model = model_for(context.parts, context.config.model, module)
    model.load_components(context.store.load(record))
    predictions = {"val": predict(model, module.loader("val"), context.config.trainer)}
    predictions["test"] = predict_test(context, model, module, record)
    return write_results(context.folder, predictions, module.task, context.data.others, module.utterances)


def evaluate_run(
    composed: Composed[EvaluateConfig], locations: Mapping[str, str | int], models: Mapping[str, str] | None = None
) -> Evaluation:
    """Applies a finished run to a split of its corpus, or to another corpus.

    Metrics and predictions are written to a folder in the run's `evaluations/`.

    Args:
        composed: the config of the command.
        locations: {key such as "root": where the run's own corpus lies now}, if no corpus is named.
        models: {modality: folder of the checkpoint of its encoder}, where it lies elsewhere now.

    Raises:
        UserError: the run is not finished, or the data does not fit it.
    """
    asked = composed.config
    store = CheckpointStore(asked.paths.checkpoints)
    assert asked.run is not None
    record, folder = store.locate(asked.run)
    if record.task.get("kind") == UNLABELLED.kind:
        raise UserError(
            f"expected a run that predicts something, got {record.run_id}, which was trained without labels"
        )
    store.check_links(folder)
    split, config = asked.split, _config_of(folder, composed, record, locations, models or {})
    components = load_components(folder, record.weights)

    preparer = DataPreparer.of(config)
    corpus, encoders = preparer.components(config)
    restore_encoders(encoders, components)
    for encoder in encoders.values():
        check_checkpoint(record, encoder)
    data = preparer.prepare(
        config,
        corpus,
        encoders,
        whole=split == WHOLE,
        widths=feature_widths(components),
        dialogues=config.context is not None,
        others=[stored_task(item) for item in record.other_tasks],
    )
    _check_labels(list(data.task.labels), record, data.manifest.dataset)
    loaded_split = "test" if split == WHOLE else split
    module = data.module(config)
    model = model_for(make_parts(config, data.task, encoders, data.others), config.model, module)
    model.load_components(components)
    if loaded_split == "test":
        check_not_trained_on(data, loaded_split, folder)
        record.test_reads.append({"time": now(), "why": f"evaluate dataset={data.manifest.dataset}"})
        write_record(folder, record)
    missing, batches = asked.missing, partial(module.loader, loaded_split)
    lacking = at_rate(batches(), missing.rate, missing.seed) if missing.rate else batches()
    predictions = predict(model, lacking, config.trainer)

    sources = {modality: item.sources for modality, item in data.features.items()}
    dataset = dict(config.dataset.node)
    what: dict[str, Any] = {"dataset": data.manifest.digest, "split": split, "sources": sources, "config": dataset}
    if missing.rate:
        what |= {"missing": [missing.rate, missing.seed]}
    target = folder / "evaluations" / digest_of(what)[:12]
    results = write_results(target, {split: predictions}, data.task, data.others, module.utterances)
    metrics = scalar_metrics(results)
    values = [metric_text(f"{split}/{key}", metrics) for key in SHOWN[data.task.kind]]
    total = f" of {len(data.manifest.utterances)}" if split == WHOLE else ""
    counts = [f"dataset={data.manifest.dataset}", f"utterances={len(predictions.id)}{total}"]
    line = "  ".join([f"run {record.run_id}", *counts, *values, *remarks(record), str(target)])
    if missing.grid:
        rows = grid(partial(predict, model, settings=config.trainer), batches, list(data.features), data.task)
        of_what = {"weights": digest_of(record.weights), "corpus": data.manifest.digest, "split": split}
        write_json(target / MISSING, {**of_what, "rows": rows})
        line = f"{line}\n{grid_table(rows, data.task)}"
    return Evaluation(
        text=line,
        target=target,
        split=split,
        record=record,
        folder=folder,
        models=models or {},
        config=config,
        data=data,
        model=model,
        batches=batches,
        utterances=len(predictions.id),
        metrics=metrics,
    )


def _check_labels(labels: list[str], record: RunRecord, dataset: str) -> None:
    if labels != record.task["labels"]:
        what = "classes" if record.task["kind"] == "classification" else "the task"
        raise UserError(f"expected {what} {record.task['labels']}, got {labels} of dataset={dataset}")


def _config_of(
    folder: Path,
    composed: Composed[EvaluateConfig],
    record: RunRecord,
    locations: Mapping[str, str | int],
    models: Mapping[str, str],
) -> TrainConfig:
    """The stored config of a run, with the operational keys, the corpus and the labels of the command."""
    values = stored_config(folder)
    values["encoder"] = with_present_models(values["encoder"], record, folder, models)
    values |= {key: composed.values[key] for key in OPERATIONAL if key in composed.values}
    values |= {"logger": {}, "tags": []}
    values["dataset"] = _moved(_dataset(values["dataset"], composed), locations)
    values["labels"] = _labels(values, composed, record)
    return validated(TrainConfig, values, heading=str(folder / "config.yaml"))


def _labels(values: dict[str, Any], composed: Composed[EvaluateConfig], record: RunRecord) -> Any:
    """The label map to read the corpus with: the run's. Without one, each of the run's classes is mapped to itself, so
    that another corpus may lack some of them or number them differently."""
    classes, asked = record.task["labels"], composed.config
    if asked.labels is not None:
        if list(asked.labels) != classes:
            raise UserError(f"expected labels that make the run's classes, {classes}, got {list(asked.labels)}")
        return asked.labels
    if values.get("labels") is not None or record.task.get("kind") == "regression" or asked.dataset is None:
        return values.get("labels")
    return {label: [label] for label in classes}


def _dataset(own: dict[str, Any], composed: Composed[EvaluateConfig]) -> dict[str, Any]:
    """The corpus to evaluate on: the run's own, at its present location and with the run's fold; or another."""
    asked = composed.values.get("dataset")
    if asked is None or asked["_target_"] != own["_target_"]:
        return own if asked is None else dict(asked)
    others = [
        word
        for word in composed.overrides
        if word.startswith("dataset.") and word.split("=")[0].rpartition(".")[2] not in LOCATIONS
    ]
    if others:
        keys = " or ".join(f"dataset.{key}" for key in LOCATIONS)
        raise UserError(f"expected only {keys}, since a run is tested on its own fold, got {others}")
    return _relocated(own, asked)


def _moved(own: dict[str, Any], locations: Mapping[str, str | int]) -> dict[str, Any]:
    """A corpus at other locations.

    Raises:
        UserError: the corpus has no such key.
    """
    known = [key for key in LOCATIONS if key in own]
    problems = [f"expected {' or '.join(known) or 'no location'}, got {key}" for key in locations if key not in known]
    raise_problems("dataset", problems)
    return {**own, **locations}


def _relocated(own: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The run's own corpus at the locations that are asked for."""

    def value(key: str) -> Any:
        mine, other = own[key], asked.get(key)
        if key in LOCATIONS:
            return other
        return _relocated(mine, other) if isinstance(mine, dict) and isinstance(other, dict) else mine

    return {key: value(key) for key in own}
