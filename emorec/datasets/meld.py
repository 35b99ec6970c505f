"""MELD, the Multimodal EmotionLines Dataset: dialogues of the series Friends.

Poria et al. (2019), ACL, arXiv 1810.02508. GPL-3.0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.tables import read_table
from emorec.datasets.utterance import Target, Task, Utterance

EMOTIONS = ("neutral", "joy", "sadness", "anger", "fear", "disgust", "surprise")
SENTIMENTS = ("neutral", "positive", "negative")
TASKS = {
    "emotion": Task(name="emotion", labels=EMOTIONS, monitor="weighted_f1"),
    "sentiment": Task(name="sentiment", labels=SENTIMENTS, monitor="weighted_f1"),
}
PROTOCOLS = {"official": OfficialSplit()}
TABLES = {"train": "train_sent_emo.csv", "val": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
# The folders as the authors' archive unpacks, and as other copies keep them.
CLIP_FOLDERS = {
    "train": ("train/train_splits", "train_splits", "videos/train"),
    "val": ("dev/dev_splits_complete", "dev_splits_complete", "videos/dev", "videos/val"),
    "test": ("test/output_repeated_splits_test", "output_repeated_splits_test", "videos/test"),
}
SOUND_FOLDERS = {"train": ("audios/train",), "val": ("audios/dev", "audios/val"), "test": ("audios/test",)}
# Clips of the authors' archive that are broken, absent, or cut to minutes: their sound and picture are left out.
BAD_CLIPS = {
    ("train", 125, 3): "corrupt",
    ("val", 110, 7): "missing",
    ("test", 38, 4): "cut wrongly",
    ("test", 220, 0): "cut wrongly",
    ("train", 309, 0): "cut wrongly",
}
# Some copies hold the Windows-1252 quotes as C1 control characters; five code points have no character there.
C1_CHARACTERS = {
    code: bytes([code]).decode("cp1252") for code in range(0x80, 0xA0) if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}


def normalise_text(text: str) -> str:
    """One text for all copies of the corpus: C1 controls become the characters they stand for, spaces are single."""
    return " ".join(text.translate(C1_CHARACTERS).split())


@dataclass(kw_only=True)
class Meld(Corpus):
    """MELD from its three annotation tables; sound and picture where their folders are there."""

    name: ClassVar[str] = "meld"

    def scan(self) -> Manifest:
        self.require_folder("Get the annotation tables and clips from the authors' page of MELD.")
        problems: list[Problem] = []
        utterances: list[Utterance] = []
        for split, table in TABLES.items():
            clips = _media_by_name(self.folder, CLIP_FOLDERS[split], (".mp4",))
            sounds = _media_by_name(self.folder, SOUND_FOLDERS[split], (".flac", ".wav"))
            for line, row in read_table(self.folder / table, COLUMNS, problems):
                utterance, found = _utterance(row, split, f"{table}:{line}", clips, sounds)
                problems += found
                utterances += [utterance] if utterance is not None else []
        problems += check_utterances(utterances, TASKS)
        return Manifest(
            dataset=self.name,
            utterances=tuple(sorted(utterances, key=lambda item: item.id)),
            tasks=TASKS,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=_media_notes(utterances),
        )


def _media_by_name(root: Path, folders: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        if (root / folder).is_dir():
            for path in sorted((root / folder).iterdir()):
                if path.suffix.lower() in suffixes and not path.name.startswith("."):
                    found.setdefault(path.stem, path)
    return found


def _media_notes(utterances: list[Utterance]) -> tuple[str, ...]:
    notes = []
    for modality in ("audio", "video"):
        count = sum(getattr(item, modality) is not None for item in utterances)
        if count < len(utterances):
            notes.append(f"{modality}: {count} of {len(utterances)} utterances have a file")
    return tuple(notes)


def _utterance(
    row: dict[str, str], split: str, where: str, clips: dict[str, Path], sounds: dict[str, Path]
) -> tuple[Utterance | None, list[Problem]]:
    found: list[Problem] = []
    numbers = {}
    for column in ("Dialogue_ID", "Utterance_ID"):
        if row[column].strip().isdecimal():
            numbers[column] = int(row[column])
        else:
            found.append(Problem("number", where, f"expected {column} to be a number, got {row[column]!r}"))
    targets: dict[str, Target] = {}
    for column, task in (("Emotion", TASKS["emotion"]), ("Sentiment", TASKS["sentiment"])):
        label = row[column].strip().lower()
        if label in task.labels:
            targets[task.name] = task.labels.index(label)
        else:
            found.append(Problem("label", where, f"expected {column} in {task.labels}, got {row[column]!r}"))
    if found:
        return None, found
    dialogue, turn = numbers["Dialogue_ID"], numbers["Utterance_ID"]
    clip = f"dia{dialogue}_utt{turn}"
    bad = (split, dialogue, turn) in BAD_CLIPS
    video = None if bad else clips.get(clip)
    metadata = {key: row[key] for key in ("Season", "Episode", "StartTime", "EndTime") if row.get(key)}
    utterance = Utterance(
        id=f"{split}_{clip}",
        dataset=Meld.name,
        audio=None if bad else sounds.get(clip, video),
        video=video,
        text=normalise_text(row["Utterance"]),
        targets=targets,
        speaker=normalise_text(row["Speaker"]),
        dialogue=f"{split}_dia{dialogue}",
        turn=turn,
        split=split,
        metadata=dict(metadata),
    )
    return utterance, []
