"""The validation split of a run, as the inputs of its graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from emorec.batch import Batch
from emorec.config.schema import CommandConfig, TrainConfig
from emorec.config.validation import validated
from emorec.datamodules.prepared_data import PreparedData
from emorec.datamodules.preparer import DataPreparer
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.inference.export.example import Array, padded
from emorec.inference.export.graph import LAYOUT, SPEAKERS
from emorec.inference.export.port import Port
from emorec.inference.loaded_run import LoadedRun
from emorec.media.source import MediaError
from emorec.runs.backbones import with_present_models
from emorec.runs.checkpoint_store import stored_task


@dataclass(frozen=True)
class LabelledInputs:
    """A batch of the validation split.

    Attributes:
        tensors: {name: input} of the graph.
        target: (B,) or (B, K).
        known: (B,) whether the utterance has a target.
    """

    tensors: dict[str, Array]
    target: Array
    known: Array


class ValidationInputs:
    """The validation split of a run's own corpus; it is read anew each time.

    Args:
        run: a finished run.
        ports: {modality: its port}.
        command: where caches lie, and how media are read.

    Raises:
        UserError: the corpus cannot be read, or has other labels now.
    """

    def __init__(self, run: LoadedRun, ports: Mapping[str, Port], command: CommandConfig) -> None:
        self._ports, self._task = ports, run.task
        data, config = prepared(run, command)
        self._manifest: Manifest = data.manifest
        self._module = data.module(config)
        self._utterances = {item.id: item for item in data.manifest.utterances}

    def __iter__(self) -> Iterator[LabelledInputs]:
        alone = not all(port.declared.pads_exactly for port in self._ports.values())
        for batch in self._module.loader("val"):
            if alone and batch.layout is not None:
                raise UserError(
                    "expected reads=features to compare models on whole dialogues, got an encoder for which padding "
                    "changes the result"
                )
            rows = range(len(batch)) if alone else ()
            yield from map(self.inputs_of, [batch.taken(torch.tensor([row])) for row in rows] or [batch])

    def inputs_of(self, batch: Batch) -> LabelledInputs:
        """A batch as inputs of the graph: features as they are stored, media as they are decoded."""
        tensors: dict[str, Any] = {}
        for name, port in self._ports.items():
            if port.declared.kind == "features":
                rows = _stored_rows(batch, name)
            else:
                there = batch.present[name].tolist()
                rows = [
                    self._value(port, self._utterances[identifier]) if known else None
                    for identifier, known in zip(batch.id, there, strict=True)
                ]
            tensors |= padded(port.declared, rows)
        if batch.layout is not None:
            tensors |= {LAYOUT: batch.layout.numpy(), SPEAKERS: batch.speaker.numpy()}
        task = self._task.name
        return LabelledInputs(tensors, batch.targets[task].numpy(), batch.target_mask[task].numpy())

    def _value(self, port: Port, utterance: Utterance) -> Array | None:
        """What an utterance has of a modality; of one that is longer than the graph takes, its beginning."""
        source = port.encoder.source(utterance, self._manifest)
        try:
            return None if source is None else port.value_of(source)[: port.declared.longest]
        except MediaError:  # it was recorded as such when the features were computed
            return None


def _stored_rows(batch: Batch, name: str) -> list[Array | None]:
    """The features of each row of a batch, without padding; `None` where the modality is missing."""
    values = (batch.inputs if name in batch.inputs else batch.features)[name].float().numpy()
    lengths = batch.mask[name].sum(1).tolist()
    there = batch.present[name].tolist()
    return [row[:length] if known else None for row, length, known in zip(values, lengths, there, strict=True)]


def _refuse() -> bool:
    raise UserError("features that are not stored; `emorec extract` computes them")


def prepared(run: LoadedRun, command: CommandConfig, *, computes: bool = True) -> tuple[PreparedData, TrainConfig]:
    """The corpus of a run with its features, and the run's config.

    Args:
        run: a finished run.
        command: where caches lie, and how media are read.
        computes: whether features that are not stored are computed; else they are an error.

    Raises:
        UserError: the corpus cannot be read, or has other labels now.
    """
    values = {**run.config, "logger": {}, "tags": []}
    values["encoder"] = with_present_models(values["encoder"], run.record, run.folder, run.models)
    config = validated(TrainConfig, values, heading=str(run.folder / "config.yaml"))
    config = replace(config, paths=command.paths, extraction=command.extraction, progress=command.progress)
    preparer = DataPreparer.of(config)
    if not computes:
        preparer.processes = _refuse
    try:
        corpus, _ = preparer.components(config)
        data = preparer.prepare(
            config,
            corpus,
            run.encoders,
            run.task,
            widths=run.widths,
            dialogues=config.context is not None,
            others=[stored_task(item) for item in run.record.other_tasks],
        )
    except (UserError, OSError) as error:
        raise UserError(
            f"expected the corpus of run {run.record.run_id}, on whose validation split models are compared, got: "
            f"{error}"
        ) from error
    return data, config
