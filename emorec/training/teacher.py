"""The predictions of a finished run, from which a new one learns."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emorec.config.composition import Composed
from emorec.config.keys import OPERATIONAL
from emorec.config.schema import FeaturesConfig, TrainConfig
from emorec.config.validation import validated
from emorec.datamodules.leakage import check_not_trained_on
from emorec.datamodules.prepared_data import PreparedData
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.features.reader import FeatureReader
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.losses.loss import Loss
from emorec.models.builder import feature_widths, make_parts, model_for, restore_encoders
from emorec.models.emotion_model import EmotionModel
from emorec.runs.backbones import check_checkpoint, with_present_models
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord, stored_config, stored_task
from emorec.runs.weights import load_components
from emorec.storage.digests import digest_of

log = logging.getLogger(__name__)

PUBLISHED_AT_ONCE = 4096  # predictions in a shard


@dataclass(frozen=True)
class Teacher:
    """A finished run whose predictions are learned from."""

    record: RunRecord  # of the run
    folder: Path  # the run's directory

    @property
    def digests(self) -> dict[str, str]:
        """{component: digest of its weights}: what identifies it."""
        return dict(self.record.weights)

    def predictions(
        self, composed: Composed[TrainConfig], preparer: DataPreparer, own: PreparedData
    ) -> dict[str, Tensor]:
        """Its logits (N, C) and vectors "fused" (N, H) for the training split of a run, NaN where it has none.

        They are kept in the cache; where all are there, the teacher is not applied.

        Raises:
            UserError: the teacher's encoders do not fit what it was trained with.
        """
        config = self._config(composed)
        corpus, encoders = preparer.components(config)
        components = load_components(self.folder, self.record.weights)
        restore_encoders(encoders, components)
        for encoder in encoders.values():
            check_checkpoint(self.record, encoder)
        dialogues = config.context is not None
        data = preparer.prepare(
            config,
            corpus,
            encoders,
            own.task,
            widths=feature_widths(components),
            dialogues=dialogues,
            others=[stored_task(item) for item in self.record.other_tasks],
        )
        names = [item.id for item in (data.turns or data.splits)["train"]]
        keys = dict(zip(names, self._keys(data, names), strict=True))
        spec = FeatureSpec(encoder="Teacher", version=1, dtype="float32", revision=digest_of(self.digests))
        store = FeatureStore(preparer.cache, spec, preparer.digests)
        if not bool(store.locate(list(keys.values())).found.all()):
            log.info("teacher %s: predictions for %d utterances are computed", self.record.run_id, len(names))
            module = data.module(config)
            model = model_for(make_parts(config, own.task, encoders, data.others), config.model, module)
            model.load_components(components)
            device = "cpu" if config.trainer.accelerator == "cpu" else own_device()
            _store(store, keys, *outputs(model.to(device), module))
        wanted = [keys.get(item.id) for item in (own.turns or own.splits)["train"]]
        values = _rows(store.reader(wanted, FeaturesConfig(preload="ram")), len(wanted))
        classes = len(own.task.labels)
        return {"logits": values[:, :classes], "fused": values[:, classes:]}

    def _config(self, composed: Composed[TrainConfig]) -> TrainConfig:
        """The teacher's config on the corpus of the run that learns from it."""
        values = stored_config(self.folder)
        values["encoder"] = with_present_models(values["encoder"], self.record, self.folder, {})
        values |= {key: composed.values[key] for key in OPERATIONAL if key in composed.values}
        values |= {"logger": {}, "tags": [], "features": {**values["features"], "preload": "none"}}  # read once
        values |= {"dataset": composed.values["dataset"], "labels": composed.values["labels"]}
        return validated(TrainConfig, values, heading=str(self.folder / "config.yaml"))

    def _keys(self, data: PreparedData, names: Sequence[str]) -> list[bytes]:
        """A key of each utterance's predictions: of all that the teacher reads, since a turn depends on others."""
        read = digest_of([data.manifest.digest, {modality: item.sources for modality, item in data.features.items()}])
        return [hashlib.sha256(f"{read} {name}".encode("utf-8", "surrogatepass")).digest() for name in names]


def find_teacher(config: TrainConfig, loss: Loss, labels: Sequence[str], store: CheckpointStore) -> Teacher | None:
    """The run that a config's training learns from; `None` for none.

    Raises:
        UserError: there is no such run, it predicts other classes, or no loss compares with it.
    """
    name = config.distillation.teacher
    if name is None:
        if loss.needs_teacher:
            raise UserError("distillation.teacher: expected a finished run for a loss that learns from one, got null")
        return None
    if not loss.needs_teacher:
        raise UserError(f"distillation.teacher={name}: expected a loss that learns from it, as loss=[cross_entropy,kd]")
    record, folder = store.locate(name)
    store.check_links(folder)
    if record.task.get("labels") != list(labels):
        raise UserError(
            f"distillation.teacher: expected a run of the classes {list(labels)}, got {record.task.get('labels')}"
        )
    return Teacher(record, folder)


def check_teacher(teacher: Teacher, data: PreparedData) -> None:
    """Raises a `UserError` where the teacher was trained on utterances of val, by which the epoch is chosen, or was
    trained or selected on those of test."""
    where = "distillation.teacher: "
    check_not_trained_on(data, "val", teacher.folder, where=where, used_in=("train",))
    check_not_trained_on(data, "test", teacher.folder, where=where)


def outputs(model: EmotionModel, module: UtteranceDataModule) -> tuple[list[str], Tensor]:
    """The ids of the training split, and its logits and vectors side by side (N, C + H), in evaluation."""
    names: list[str] = []
    values = []
    model.eval()
    with torch.inference_mode(), exact_float32():
        for batch in module.loader("train"):
            output = model(batch.to(model.device))
            parts = output.logits[module.task.name], output.fusion.fused
            names += batch.id
            values.append(torch.cat([part.float().cpu() for part in parts], dim=1))
    return names, torch.cat(values)


def _store(store: FeatureStore, keys: dict[str, bytes], names: Sequence[str], values: Tensor) -> None:
    for start in range(0, len(names), PUBLISHED_AT_ONCE):
        some = names[start : start + PUBLISHED_AT_ONCE]
        rows: list[np.ndarray] = [row[None] for row in values[start : start + len(some)].numpy()]
        store.add([keys[name] for name in some], rows, {})
    store.refresh()


def _rows(reader: FeatureReader, count: int) -> Tensor:
    """(N, D) of a reader of single rows, NaN where one is absent."""
    values, mask = reader.gather(torch.arange(count))
    return values[:, 0].masked_fill(~mask[:, :1], torch.nan)
