"""One utterance of a corpus and the tasks that its labels define."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Target = int | float | tuple[float, ...]
Metadata = dict[str, str | int | float]
SPLITS = ("train", "val", "test")
VOTES = "_votes"  # suffix of a target that holds the raters' votes on a task


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted.

    Attributes:
        name: key of the targets, such as "emotion".
        kind: classification (targets are class numbers) or regression (targets are values).
        labels: the names of the classes in the order of their numbers; for regression the names of the dimensions.
        monitor: the validation metric that selects the best epoch, such as "weighted_f1".
        direction: whether a larger or a smaller monitor is better.
        cuts: for regression, sets of thresholds; each set turns the values into classes, whose accuracy is reported.
    """

    name: str
    kind: Literal["classification", "regression"] = "classification"
    labels: tuple[str, ...]
    monitor: str = "weighted_f1"
    direction: Literal["max", "min"] = "max"
    cuts: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance: its media and its annotation.

    Attributes:
        id: unique within the dataset; contains the split if the corpus repeats ids across splits.
        dataset: the name of the corpus.
        audio: the sound file, or a video with a sound track.
        video: the video file.
        text: the transcript.
        start: start of the utterance in the file, in seconds; `None` for the start of the file.
        end: end of the utterance in the file, in seconds; `None` for the end of the file.
        crop: the half of the frame that shows the speaker; `None` for the whole frame.
        audio_is_cut: whether the sound file contains this utterance only, so that `start` and `end` apply to the video
            alone (see `segment`).
        targets: {task: class number or value}; "<task>_votes" holds the share of votes for each class, summing to 1.
        speaker: the same name for the same person in the whole corpus.
        dialogue: the dialogue it belongs to.
        turn: its number in the dialogue; gaps are allowed.
        session: the recording session.
        split: the split assigned by the corpus's authors: "train", "val" or "test".
        metadata: other annotation of the corpus (intensity, statement, season …).
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
    metadata: Metadata = field(default_factory=dict)

    def segment(self, modality: str) -> tuple[float | None, float | None]:
        """Start and end of the utterance in the file of a modality, in seconds."""
        return (None, None) if modality == "audio" and self.audio_is_cut else (self.start, self.end)
