"""The validation split of a run, as the inputs of its graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from emorec.batch import Batch
from emorec.config.schema import CommandConfig, TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.inference.export.example import Array, padded
from emorec.inference.export.graph import LAYOUT, SPEAKERS
from emorec.inference.export.port import Port
from emorec.inference.loaded_run import LoadedRun
from emorec.media.source import MediaError


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
        self.config: TrainConfig = replace(
            run.train_config, paths=command.paths, extraction=command.extraction, progress=command.progress
        )
        preparer = DataPreparer.of(self.config)
        try:
            corpus, _ = preparer.components(self.config)
            data = preparer.prepare(
                self.config,
                corpus,
                run.encoders,
                run.task,
                widths=run.widths,
                dialogues=self.config.context is not None,
            )
        except (UserError, OSError) as error:
            raise UserError(
                f"expected the corpus of run {run.record.run_id}, on whose validation split the graphs are compared, "
                f"got: {error}"
            ) from error
        self._manifest: Manifest = data.manifest
        self.module: UtteranceDataModule = data.module(self.config)
        self._utterances = {item.id: item for item in data.manifest.utterances}

    def __iter__(self) -> Iterator[LabelledInputs]:
        for batch in self.module.loader("val"):
            yield self.inputs_of(batch)

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
        source = port.encoder.source(utterance, self._manifest)
        try:
            return None if source is None else port.value_of(source)
        except MediaError:  # it was recorded as such when the features were computed
            return None


def _stored_rows(batch: Batch, name: str) -> list[Array | None]:
    """The features of each row of a batch, without padding; `None` where the modality is missing."""
    values = (batch.inputs if name in batch.inputs else batch.features)[name].float().numpy()
    lengths = batch.mask[name].sum(1).tolist()
    there = batch.present[name].tolist()
    return [row[:length] if known else None for row, length, known in zip(values, lengths, there, strict=True)]
