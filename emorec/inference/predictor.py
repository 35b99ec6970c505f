"""Applies a trained run to clips of any origin, with the media settings, encoders and weights of its training."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emorec.config.schema import ExtractionConfig
from emorec.datamodules.dialogues import in_order
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.utterances import UtteranceTable
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.inference.clips import INPUT, UNREADABLE
from emorec.runs.backbones import check_checkpoint
from emorec.runs.logs import quiet

if TYPE_CHECKING:
    from emorec.inference.loaded_run import LoadedRun

BLOCK = 64  # clips whose features are in memory at a time; more where one dialogue has more turns


@dataclass(frozen=True)
class Prediction:
    """What a run says about one clip.

    Attributes:
        id: of the clip: its path, or as its table says.
        predicted: the most probable class, or the value; `None` where nothing of the clip can be used.
        probabilities: {class: its probability}; empty for regression.
        modalities: those that were used.
        problems: {modality: why it could not be used}.
    """

    id: str
    predicted: str | float | None
    probabilities: dict[str, float]
    modalities: tuple[str, ...]
    problems: dict[str, str]

    @property
    def confidence(self) -> float | None:
        """The probability of the predicted class."""
        return max(self.probabilities.values(), default=None)


class Predictor:
    """Predicts clips with a run. Nothing of them is kept in the cache.

    With `model.normalisation=speaker` the statistics are those of the training split, since who speaks is not known.

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
        self.model = run.model.to(self.device)
        self.encoders = run.encoders
        for encoder in self.encoders.values():
            check_checkpoint(run.record, encoder)
            encoder.views = 0

    def predict(self, clips: Iterable[Utterance]) -> Iterator[Prediction]:
        """The predictions of clips, in their order; with a context that of whole dialogues, by dialogue and turn.

        Memory is that of a block of clips, whatever their number.
        """
        if self.config.context is None:
            rest = iter(clips)
            while block := list(islice(rest, BLOCK)):
                yield from self._of_block(block)
        else:
            for block in _blocks_of_dialogues(in_order(clips)):
                yield from self._of_block(block)

    def _of_block(self, clips: Sequence[Utterance]) -> Iterator[Prediction]:
        with tempfile.TemporaryDirectory(prefix="emorec_predict_") as folder, quiet():
            table, problems = self._table(clips, Path(folder))
            there = {name: reader.present for name, reader in table.readers.items()}
            known = torch.stack(list(there.values())).any(0)  # (N,)
            outputs = self._outputs(table, clips, known)
        for number, clip in enumerate(clips):
            modalities = tuple(name for name, present in there.items() if bool(present[number]))
            own = {name: reasons[clip.id] for name, reasons in problems.items() if clip.id in reasons}
            if "text" in problems and UNREADABLE in clip.metadata:
                own["text"] = str(clip.metadata[UNREADABLE])
            yield _prediction(clip.id, self.task, outputs[number] if modalities else None, modalities, own)

    def _table(self, clips: Sequence[Utterance], folder: Path) -> tuple[UtteranceTable, dict[str, dict[str, str]]]:
        """The clips with their features, and {modality: {id: why it cannot be used}}."""
        preparer = DataPreparer(folder)
        manifest = Manifest(dataset=INPUT, utterances=tuple(clips), tasks={}, protocols={})
        features = {
            name: preparer.extracted(self.config, encoder, manifest, list(clips), self.run.widths[name])
            for name, encoder in self.encoders.items()
        }
        readers = {name: item.reader for name, item in features.items()}
        live = frozenset(name for name, encoder in self.encoders.items() if encoder.mode != "frozen")
        table = UtteranceTable(clips, manifest, self.task, readers, torch.arange(len(clips)), live=live)
        return table, {name: item.report.bad for name, item in features.items()}

    def _outputs(self, table: UtteranceTable, clips: Sequence[Utterance], known: Tensor) -> Tensor:
        """(N, C) logits, or (N, 1) values; NaN where nothing is known of a clip."""
        outputs = torch.full((len(clips), len(self.task.labels)), math.nan)
        if self.config.context is None:
            rows, turns = known.nonzero()[:, 0], None
        else:  # a turn of which nothing is known is context as well
            rows, turns = torch.arange(len(clips)), [_turns(clips)]
        if len(rows):
            with exact_float32():
                batches = table.batches(rows, [len(rows)], turns)
                outputs[rows] = self.model.logits(batches, precision=str(self.config.trainer.precision))
        return outputs


def _prediction(
    identifier: str, task: Task, output: Tensor | None, modalities: tuple[str, ...], problems: dict[str, str]
) -> Prediction:
    """A prediction of an output (C,) or (1,); `None` where nothing is known of the clip."""
    probabilities: dict[str, float] = {}
    predicted: Any = None
    if output is not None and bool(output.isfinite().all()):
        if task.kind == "regression":
            predicted = float(output[0])
        else:
            probabilities = dict(zip(task.labels, output.softmax(0).tolist(), strict=True))
            predicted = task.labels[int(output.argmax())]
    return Prediction(identifier, predicted, probabilities, modalities, problems)


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


def _blocks_of_dialogues(clips: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """Whole dialogues, together of up to `BLOCK` clips."""
    block: list[Utterance] = []
    start = 0
    for count in _turns(clips):
        if block and len(block) + count > BLOCK:
            yield block
            block = []
        block += clips[start : start + count]
        start += count
    if block:
        yield block
