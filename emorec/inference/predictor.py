"""Applies trained runs to clips of any origin, with the media settings, encoders and weights of their training."""

import itertools
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from emorec.config.schema import ExtractionConfig
from emorec.datamodules.dialogues import in_order
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.inference.clips import UNREADABLE
from emorec.inference.member import Member, Outputs
from emorec.inference.prediction import Prediction, prediction_of
from emorec.inference.segments import Window, check_window, recording_of, segments_of
from emorec.inference.timeline import Smoother, Timeline, check_smoother, smoothed, without_repeated_gaps
from emorec.inference.transcription import Transcriber
from emorec.runs.logs import quiet

if TYPE_CHECKING:
    from emorec.inference.loaded_run import LoadedRun

BLOCK = 256  # clips that are prepared together; more where one dialogue has more turns
SMOOTHING_SECONDS = 2.0


class Predictor:
    """Predicts clips with a run, or with several: the mean of their probabilities, or of their values.

    Nothing of the clips is kept in the cache.

    Args:
        runs: finished runs that predict the same classes, or the same value.
        extraction: how media are read; by default as when each run trained.
        transcriber: makes the text of clips that have sound and no text; `None` for no text.

    Raises:
        UserError: a run predicts nothing, or something else than the others; its weights are missing; or a pretrained
            checkpoint has changed since.

    Example:
        >>> predictor = Predictor([load_run("3a2afb35c1c5"), load_run("81c07e5d2f44")])
        >>> for prediction in predictor.predict(read_clips("recordings")):
        ...     print(prediction.id, prediction.predicted)
    """

    def __init__(
        self,
        runs: "LoadedRun | Sequence[LoadedRun]",
        extraction: ExtractionConfig | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        chosen = list(runs) if isinstance(runs, Sequence) else [runs]
        if not chosen:
            raise UserError("run: expected at least one, got none")
        self.task = chosen[0].task
        for run in chosen[1:]:
            if (run.task.kind, run.task.labels) != (self.task.kind, self.task.labels):
                raise UserError(
                    f"run: expected runs that predict {list(self.task.labels)} ({self.task.kind}), as "
                    f"{chosen[0].record.run_id} does, got {list(run.task.labels)} ({run.task.kind}) of "
                    f"{run.record.run_id}"
                )
        self.members = [Member(run, extraction) for run in chosen]
        self.transcriber = transcriber

    def predict(self, clips: Iterable[Utterance]) -> Iterator[Prediction]:
        """The predictions of clips.

        They come in the order of the clips, and memory is that of a block of clips, whatever their number. With a
        context, or an encoder that reads earlier turns, they come by dialogue and turn, and with
        `model.normalisation=speaker` or `model.fused_normalisation=speaker` by speaker: then all clips are known before
        the first is predicted, and a dialogue, or the clips of a speaker, are in memory together.
        """
        return self._of_blocks(self._blocks(clips))

    def timelines(
        self,
        clips: Iterable[Utterance],
        *,
        window: Window,
        hop: float | None = None,
        smoother: Smoother = "none",
        seconds: float = SMOOTHING_SECONDS,
    ) -> Iterator[Timeline]:
        """The predictions of the segments of each clip; for the arguments see `segments_of` and `smoothed`.

        Raises:
            UserError: the segments do not cover a recording, or the predictions cannot be smoothed so.
        """
        check_window(window, hop)
        check_smoother(self.task, smoother)
        segments = (segment for clip in clips for segment in segments_of(clip, window, hop))
        predictions = self._of_blocks(self._blocks(segments, by_recording=True))
        recordings = itertools.groupby(predictions, key=lambda item: item.id)
        timelines = (Timeline(name, without_repeated_gaps(list(items))) for name, items in recordings)
        return (smoothed(timeline, self.task, smoother, seconds) for timeline in timelines)

    def _of_blocks(self, blocks: Iterable[list[Utterance]]) -> Iterator[Prediction]:
        for block in blocks:
            with_texts = block if self.transcriber is None else self.transcriber.with_texts(block)
            yield from self._predictions(with_texts, self._outputs(with_texts))

    def _blocks(self, clips: Iterable[Utterance], *, by_recording: bool = False) -> Iterator[list[Utterance]]:
        """Clips that are predicted together.

        Args:
            clips: in any order.
            by_recording: whether the segments of one recording, which are a dialogue, follow each other.
        """
        by_dialogue = any(member.reads_dialogues for member in self.members)
        by_speaker = any(member.is_by_speaker for member in self.members)
        if by_dialogue and by_speaker:  # a speaker has turns in many dialogues
            yield in_order(clips)
        elif by_dialogue:
            groups = _runs_of(clips, _dialogue) if by_recording else _groups_of(clips, _dialogue)
            yield from map(in_order, _packed(groups))
        elif by_speaker:
            yield from _packed(_groups_of(clips, _speaker))
        else:
            rest = iter(clips)
            while block := list(itertools.islice(rest, BLOCK)):
                yield block

    def _outputs(self, block: Sequence[Utterance]) -> list[Outputs]:
        """What each run says; members with the same encoders share their features."""
        with tempfile.TemporaryDirectory(prefix="emorec_predict_") as folder, quiet():
            return [member.outputs(block, Path(folder)) for member in self.members]

    def _predictions(self, block: Sequence[Utterance], outputs: Sequence[Outputs]) -> Iterator[Prediction]:
        stacked = torch.stack([output.values for output in outputs])  # (R, N, C)
        means = stacked.nanmean(0)  # NaN where no run knows anything
        for number, (clip, values) in enumerate(zip(block, means, strict=True)):
            used = dict.fromkeys(name for output in outputs for name in output.modalities(number))
            problems = {name: reason for output in outputs for name, reason in output.problems[number].items()}
            if UNREADABLE in clip.metadata and any("text" in output.present for output in outputs):
                problems["text"] = str(clip.metadata[UNREADABLE])
            where = {"start": clip.start, "end": clip.end}
            prediction = Prediction(recording_of(clip), None, {}, tuple(used), problems, **where, text=clip.text)
            known = bool(used) and bool(values.isfinite().all())
            yield prediction_of(prediction, self.task, values.tolist()) if known else prediction


def _dialogue(clip: Utterance) -> Hashable:
    return ("", clip.id) if clip.dialogue is None else clip.dialogue  # one without a name stands alone


def _speaker(clip: Utterance) -> Hashable:
    return ("", clip.id) if clip.speaker is None else clip.speaker


def _runs_of(clips: Iterable[Utterance], name_of: Callable[[Utterance], Hashable]) -> Iterator[list[Utterance]]:
    """The clips of each name, which follow each other."""
    return (list(group) for _, group in itertools.groupby(clips, key=name_of))


def _groups_of(clips: Iterable[Utterance], name_of: Callable[[Utterance], Hashable]) -> Iterable[list[Utterance]]:
    """The clips of each name, in the order in which the names begin."""
    groups: dict[Hashable, list[Utterance]] = {}
    for clip in clips:
        groups.setdefault(name_of(clip), []).append(clip)
    return groups.values()


def _packed(groups: Iterable[list[Utterance]]) -> Iterator[list[Utterance]]:
    """Blocks of whole groups, of up to `BLOCK` clips, more where one group has more."""
    block: list[Utterance] = []
    for group in groups:
        if block and len(block) + len(group) > BLOCK:
            yield block
            block = []
        block = block + group
    if block:
        yield block
