"""One utterance of a corpus and the tasks that its labels define."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Target = int | float | tuple[float, ...]
SPLITS = ("train", "val", "test")
VOTES = "_votes"  # ends the name of a target that holds raters' votes on a task


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted.

    Attributes:
        name: key of the targets, such as "emotion".
        kind: classification (targets are class numbers) or regression (targets are values).
        labels: the classes' names in the order of their numbers; for regression the dimensions' names.
        monitor: the metric that chooses the best epoch on validation, such as "weighted_f1".
        direction: whether a larger or a smaller monitor is better.
        cuts: for regression, sets of thresholds; each makes classes of the values, whose accuracy is told.
    """

    name: str
    kind: Literal["classification", "regression"] = "classification"
    labels: tuple[str, ...]
    monitor: str = "weighted_f1"
    direction: Literal["max", "min"] = "max"
    cuts: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance: where its media are and what is known about it.

    Attributes:
        id: unique within the dataset; holds the split where the corpus repeats ids across splits.
        dataset: the corpus's name.
        audio: file that holds the sound (a sound file, or a video with a sound track).
        video: file that holds the picture.
        text: the transcript.
        start: seconds into the file where the utterance starts; `None` for the file's start.
        end: seconds into the file where it ends; `None` for the file's end.
        crop: the side of the picture that shows the speaker; `None` for the whole picture.
        audio_is_cut: whether the sound file holds this utterance alone, so that `start` and `end` are of the video
            only; `segment` tells them apart.
        targets: {task: class number or value}; under "<task>_votes" the raters' shares of the classes, summing to 1.
        speaker: the same name for the same person in the whole corpus.
        dialogue: the dialogue it belongs to.
        turn: its place in the dialogue; gaps are allowed.
        session: the recording session.
        split: the split that the corpus's authors gave it: "train", "val" or "test".
        metadata: what else the corpus says (intensity, statement, season …).
    """

    id: str
    dataset: str
    audio: Path | None = None
    video: Path | None = None
    text: str | None = None
    start: float | None = None
    end: float | None = None
    crop: Literal["left", "right"] | None = None
    audio_is_cut: bool = False
    targets: dict[str, Target]
    speaker: str | None = None
    dialogue: str | None = None
    turn: int | None = None
    session: str | None = None
    split: str | None = None
    metadata: dict[str, str | int | float] = field(default_factory=dict)

    def segment(self, modality: str) -> tuple[float | None, float | None]:
        """Seconds into the modality's file where the utterance starts and ends."""
        return (None, None) if modality == "audio" and self.audio_is_cut else (self.start, self.end)
