"""One of the runs that predict together."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emorec.config.schema import ExtractionConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.statistics import speaker_statistics
from emorec.datamodules.utterances import UtteranceTable
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.inference.clips import INPUT
from emorec.media.source import Change
from emorec.models.builder import front_of
from emorec.runs.backbones import check_checkpoint

if TYPE_CHECKING:
    from emorec.inference.loaded_run import LoadedRun

AT_ONCE = 32  # clips of which the model reads the features at a time


@dataclass(frozen=True)
class Outputs:
    """What a run says about N clips."""

    values: Tensor  # (N, C) probabilities, or (N, 1) values of a regression; NaN where nothing is known of a clip
    present: dict[str, Tensor]  # {modality: (N,)}, true where it was used
    problems: list[dict[str, str]]  # {modality: why it cannot be used} of each clip

    def modalities(self, number: int) -> list[str]:
        """Those of a clip that were used."""
        return [name for name, present in self.present.items() if bool(present[number])]


class Member:
    """A run with its model and encoders.

    Args:
        run: a finished run.
        extraction: how media are read; by default as when the run trained.

    Raises:
        UserError: the run predicts nothing, its weights are missing, or a pretrained checkpoint has changed since.
    """

    def __init__(self, run: "LoadedRun", extraction: ExtractionConfig | None = None) -> None:
        if run.task.kind == "self_supervised":
            raise UserError(
                f"expected a run that predicts something, got {run.record.run_id}, which was trained without labels"
            )
        self.run, self.task = run, run.task
        settings = replace(extraction or run.train_config.extraction, on_bad_media="skip", progress=False)
        self.config = replace(run.train_config, extraction=settings)
        self.device = "cpu" if self.config.trainer.accelerator == "cpu" else own_device()
        self.model = run.model if self.device == "cpu" else copy.deepcopy(run.model).to(self.device)
        self.encoders = run.encoders
        for encoder in self.encoders.values():
            check_checkpoint(run.record, encoder)
            encoder.views = 0

    @property
    def has_context(self) -> bool:
        """Whether the turns of a dialogue are predicted together."""
        return self.config.context is not None

    @property
    def reads_dialogues(self) -> bool:
        """Whether what is said of a turn depends on others of its dialogue."""
        return self.has_context or any(getattr(item, "context_turns", 0) for item in self.encoders.values())

    @property
    def is_by_speaker(self) -> bool:
        """Whether clips are compared with the others of their speaker."""
        return self.config.model.is_by_speaker

    def outputs(
        self, clips: Sequence[Utterance], folder: Path, changes: Mapping[str, Mapping[str, Change]] | None = None
    ) -> Outputs:
        """What the run says about clips: N of them, whole dialogues and speakers where it needs them.

        Args:
            folder: takes the features; those that lie there are used.
            changes: {modality: {id of a clip: what is done to its media before they are encoded}}.
        """
        changes = changes or {}
        preparer = DataPreparer(folder)
        manifest = Manifest(dataset=INPUT, utterances=tuple(clips), tasks={}, protocols={})
        features = {
            name: preparer.extracted(
                self.config, encoder, manifest, list(clips), self.run.widths[name], changes=changes.get(name)
            )
            for name, encoder in self.encoders.items()
        }
        readers = {name: item.reader for name, item in features.items()}
        live = frozenset(name for name, encoder in self.encoders.items() if encoder.mode != "frozen")
        table = UtteranceTable(clips, manifest, self.task, readers, torch.arange(len(clips)), live=live)
        self._carry_statistics(table)
        reports = [{name: item.report.bad.get(clip.id) for name, item in features.items()} for clip in clips]
        return Outputs(
            values=self._values(table, clips),
            present={name: reader.present for name, reader in readers.items()},
            problems=[{name: reason for name, reason in own.items() if reason is not None} for own in reports],
        )

    def _carry_statistics(self, table: UtteranceTable) -> None:
        """Adds the statistics of the speakers that are known, where features are standardised by speaker."""
        if self.config.model.normalisation != "speaker" or bool((table.speaker < 0).all()):
            return
        for modality, reader in table.readers.items():
            front = front_of(self.model, modality)
            table.statistics[modality] = speaker_statistics(reader, table.indices, table.speaker, modality, front=front)

    def _values(self, table: UtteranceTable, clips: Sequence[Utterance]) -> Tensor:
        """See `Outputs.values`."""
        known = torch.stack([reader.present for reader in table.readers.values()]).any(0)  # (N,)
        logits = torch.full((len(clips), len(self.task.labels)), math.nan)
        if self.has_context:  # a turn of which nothing is known is context as well
            rows = torch.arange(len(clips))
            turns = _batched(_turns(clips))
            sizes = [sum(counts) for counts in turns]
        else:
            rows, turns = known.nonzero()[:, 0], None
            sizes = [len(part) for part in torch.split(rows, AT_ONCE)]
        if len(rows):
            with exact_float32():
                batches = table.batches(rows, sizes, turns)
                logits[rows] = self.model.logits(batches, precision=str(self.config.trainer.precision))
        logits[~known] = math.nan
        return logits if self.task.kind == "regression" else logits.softmax(1)


def _batched(turns: Sequence[int]) -> list[list[int]]:
    """Numbers of turns of dialogues in batches of up to `AT_ONCE` turns, more where one dialogue has more."""
    batches: list[list[int]] = []
    for count in turns:
        if batches and sum(batches[-1]) + count <= AT_ONCE:
            batches[-1].append(count)
        else:
            batches.append([count])
    return batches


def _turns(clips: Sequence[Utterance]) -> list[int]:
    """Numbers of clips of each dialogue; a clip without one stands alone."""
    counts: list[int] = []
    for number, clip in enumerate(clips):
        goes_on = number > 0 and clip.dialogue is not None and clip.dialogue == clips[number - 1].dialogue
        if goes_on:
            counts[-1] += 1
        else:
            counts.append(1)
    return counts
