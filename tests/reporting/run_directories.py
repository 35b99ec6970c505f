"""Directories of runs as commands leave them, made without any training."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from omegaconf import OmegaConf
from pyarrow import parquet

from emorec.reporting.samples import Sample
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.identity import identify
from emorec.runs.stored_predictions import read_predictions

CONFIG: dict[str, Any] = {
    "seed": 0,
    "dataset": {"_target_": "emorec.datasets.demo.Demo", "root": "/data/demo", "fold": None, "limit": None},
    "encoder": {"text": {"_target_": "emorec.encoders.hashed_ngrams.HashedNgrams", "dim": 64}, "audio": None},
    "fusion": {"_target_": "emorec.fusion.concat.Concat"},
    "optimizer": {"lr": 0.001, "weight_decay": 0.0},
    "trainer": {"max_epochs": 3, "deterministic": True},
    "extraction": {"workers": 2},
    "sweep": {"name": "once"},
    "tags": [],
    "notes": None,
}
CHOICES = {"dataset": "demo", "encoder/text": "hashed_ngrams", "encoder/audio": "none", "fusion": "concat"}


@dataclass(frozen=True)
class Answers:
    """What a run of two classes, or of values, answers for N utterances.

    Attributes:
        id: names of the utterances.
        target: (N,) class numbers, or values.
        predicted: (N,) likewise.
        origins: {"speaker": …, "dialogue": …} names of each utterance.
        confidence: of the predicted class.
    """

    id: list[str]
    target: NDArray[Any]
    predicted: NDArray[Any]
    origins: dict[str, list[str]] = field(default_factory=dict)
    confidence: float = 0.75


def answers(
    accuracy: float, *, speakers: range = range(6), each: int = 12, seed: int = 0, unit: str = "speaker"
) -> Answers:
    """Of some speakers; two runs with equal seeds are right about the same utterances, as far as both are."""
    names = [(speaker, number) for speaker in speakers for number in range(each)]
    generator = np.random.default_rng((seed, *speakers))
    target = np.array([number % 2 for _, number in names])
    difficulty = 0.7 * generator.random(len(names)) + 0.3 * np.repeat(generator.random(len(speakers)), each)
    predicted = np.where(difficulty < accuracy, target, 1 - target)
    origins = {unit: [f"s{speaker}" for speaker, _ in names]} if unit != "utterance" else {}
    return Answers([f"s{speaker}_{number}" for speaker, number in names], target, predicted, origins)


def _write_predictions(folder: Path, predictions: dict[str, Answers], labels: list[str]) -> dict[str, float]:
    """Writes the table, and returns {"test/uar": …}."""
    tables = []
    for split, own in predictions.items():
        columns: dict[str, Any] = {"id": own.id, "split": [split] * len(own.id), **own.origins}
        if labels:
            columns["target"] = [labels[number] if number >= 0 else None for number in own.target]
            columns["predicted"] = [labels[number] if number >= 0 else None for number in own.predicted]
            for number, label in enumerate(labels):
                values = np.where(own.predicted == number, own.confidence, (1 - own.confidence) / (len(labels) - 1))
                columns[f"probability_{label}"] = values.astype(np.float32)
        else:
            columns |= {"target": own.target, "predicted": own.predicted}
        tables.append(pyarrow.table(columns))
    parquet.write_table(pyarrow.concat_tables(tables), folder / "predictions.parquet")
    samples = {split: Sample.of(item) for split, item in read_predictions(folder, labels).items()}
    return {f"{split}/{name}": value for split, sample in samples.items() for name, value in sample.scores.items()}


def change(config: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        config = config[name]
    config[last] = value


def publish(
    store: CheckpointStore,
    changes: dict[str, Any] | None = None,
    *,
    choices: dict[str, str] | None = None,
    metrics: dict[str, Any] | None = None,
    data: dict[str, str] | None = None,
    task: dict[str, Any] | None = None,
    status: str = "finished",
    predictions: dict[str, Answers] | None = None,
    started: str | None = None,
    config: dict[str, Any] | None = None,
) -> str:
    """Writes the directory of a run as a command leaves it, and returns its id.

    With predictions {split: answers}, metrics that are not given are theirs.
    """
    config = copy.deepcopy(CONFIG if config is None else config)
    for key, value in (changes or {}).items():
        change(config, key, value)
    about = {"dataset": "demo", "protocol": "held_out_speakers", **(data or {})}
    identity = identify(config, manifest_digest=about["dataset"], feature_specs={}, sources={})
    record = RunRecord(
        run_id=identity.run_id,
        group_id=identity.group_id,
        identity=identity.digest,
        status=status,
        seed=config["seed"],
        fold=config["dataset"]["fold"],
        task={"name": "emotion", "labels": ["angry", "calm"], "monitor": "uar", "direction": "max", **(task or {})},
        choices={**CHOICES, **(choices or {})},
        overrides=[],
        started=started or f"2026-01-01T00:00:{len(list(store.records())):02d}+0000",
        data=about,
        best_epoch=1,
        epochs=3,
    )
    store.write(record)
    folder = store.folder(identity.run_id)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    if status == "finished":
        labels = record.task["labels"]
        if predictions is not None:
            metrics = {**_write_predictions(folder, predictions, labels), **(metrics or {})}
        (folder / "metrics.json").write_text(json.dumps({"val/uar": 0.5} if metrics is None else metrics))
    return identity.run_id
