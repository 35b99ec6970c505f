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
    """What is predicted."""

    name: str  # key of the targets, such as "emotion"
    # targets are class numbers, or values; a self-supervised task has none
    kind: Literal["classification", "regression", "self_supervised"] = "classification"
    labels: tuple[str, ...]  # names of the classes in the order of their numbers; for regression, of the dimensions
    monitor: str = "weighted_f1"  # the validation metric that selects the best epoch
    direction: Literal["max", "min"] = "max"  # whether a larger or a smaller monitor is better
    # For regression: each set of thresholds turns the values into classes, whose accuracy is reported.
    cuts: tuple[tuple[float, ...], ...] = ()


UNLABELLED = Task(name="unlabelled", kind="self_supervised", labels=(), monitor="loss", direction="min")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance: its media and its annotation. Start and end are seconds in the file."""

    id: str  # unique within the dataset; contains the split if the corpus repeats ids across splits
    dataset: str
    audio: Path | None = None  # the sound file, or a video with a sound track
    video: Path | None = None
    text: str | None = None  # the transcript
    start: float | None = None  # `None` for the start of the file
    end: float | None = None  # `None` for the end of the file
    crop: Literal["left", "right"] | None = None  # the half of the frame that shows the speaker; `None` for the whole
    audio_is_cut: bool = False  # the sound file contains this utterance only: `start` and `end` apply to the video
    # {task: class number or value}; "<task>_votes" holds the share of votes for each class, summing to 1
    targets: dict[str, Target]
    speaker: str | None = None  # the same name for the same person in the whole corpus
    dialogue: str | None = None
    turn: int | None = None  # its number in the dialogue; gaps are allowed
    session: str | None = None  # the recording session
    split: str | None = None  # "train", "val" or "test", as assigned by the corpus's authors
    metadata: Metadata = field(default_factory=dict)  # other annotation of the corpus (intensity, statement, season …)

    def segment(self, modality: str) -> tuple[float | None, float | None]:
        """Start and end of the utterance in the file of a modality, in seconds."""
        return (None, None) if modality == "audio" and self.audio_is_cut else (self.start, self.end)
