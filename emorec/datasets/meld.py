"""MELD, the Multimodal EmotionLines Dataset: dialogues of the series Friends.

Poria et al. (2019), ACL, arXiv 1810.02508. GPL-3.0.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances, media_notes
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
# Utterances of each emotion, in their order, as the authors' tables have them.
COUNTS = {
    "train": (4710, 1743, 683, 1109, 268, 271, 1205),
    "val": (470, 163, 111, 153, 40, 22, 150),
    "test": (1256, 402, 208, 345, 50, 68, 281),
}
TOTAL = sum(map(sum, COUNTS.values()))
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


@dataclass(frozen=True)
class Media:
    """A split's files.

    Attributes:
        clips: pictures with sound, by name without the ending.
        sounds: sound files of their own, by name without the ending.
        hidden: how many files are hidden, such as the `._*` that some archives carry.
    """

    clips: dict[str, Path]
    sounds: dict[str, Path]
    hidden: int

    def has(self, name: str) -> bool:
        return name in self.clips or name in self.sounds


@dataclass(kw_only=True)
class Meld(Corpus):
    """MELD from its three annotation tables; sound and picture where their folders are there.

    Clips that no table names are ignored, those of `BAD_CLIPS` are left out while their text stays; notes tell of both.
    """

    name: ClassVar[str] = "meld"

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        from emorec.datasets.fixtures.meld import write

        write(folder)

    def scan(self) -> Manifest:
        self.require_folder("Get the annotation tables and clips from the authors' page of MELD.")
        problems: list[Problem] = []
        utterances: list[Utterance] = []
        media = {split: _media(self.folder, split) for split in TABLES}
        for split, table in TABLES.items():
            for line, row in read_table(self.folder / table, COLUMNS, problems):
                utterance, found = _utterance(row, split, f"{table}:{line}", media[split])
                problems += found
                utterances += [utterance] if utterance is not None else []
        problems += check_utterances(utterances, TASKS)
        problems += _miscounted(utterances)
        return Manifest(
            dataset=self.name,
            utterances=tuple(sorted(utterances, key=lambda item: item.id)),
            tasks=TASKS,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=(*_partial(utterances), *media_notes(utterances), *_left_out(utterances, media)),
        )


def _partial(utterances: list[Utterance]) -> Iterator[str]:
    if len(utterances) < TOTAL:
        yield f"{len(utterances)} of {TOTAL} utterances"


def _miscounted(utterances: list[Utterance]) -> Iterator[Problem]:
    """Where the whole corpus has other counts than its authors'."""
    if len(utterances) < TOTAL:
        return
    for split, expected in COUNTS.items():
        found = Counter(item.targets["emotion"] for item in utterances if item.split == split)
        for number, count in enumerate(expected):
            if found[number] != count:
                detail = f"expected {count} utterances of {EMOTIONS[number]} as published, found {found[number]}"
                yield Problem("count", split, detail, fatal=False)


def _media(root: Path, split: str) -> Media:
    clips, hidden_clips = _files(root, CLIP_FOLDERS[split], (".mp4",))
    sounds, hidden_sounds = _files(root, SOUND_FOLDERS[split], (".flac", ".wav"))
    return Media(clips, sounds, hidden_clips + hidden_sounds)


def _files(root: Path, folders: Iterable[str], suffixes: tuple[str, ...]) -> tuple[dict[str, Path], int]:
    """The files with these endings by name, the first folder's where several have it, and how many are hidden."""
    found: dict[str, Path] = {}
    hidden = 0
    for folder in folders:
        paths = sorted((root / folder).iterdir()) if (root / folder).is_dir() else []
        for path in paths:
            if path.suffix.lower() in suffixes and path.name.startswith("."):
                hidden += 1
            elif path.suffix.lower() in suffixes:
                found.setdefault(path.stem, path)
    return found, hidden


def _left_out(utterances: list[Utterance], media: dict[str, Media]) -> Iterator[str]:
    """Notes on files that are there and not used."""
    annotated = {item.id for item in utterances}
    extra = sum(
        f"{split}_{name}" not in annotated for split, files in media.items() for name in (*files.clips, *files.sounds)
    )
    if extra:
        yield f"ignored files that no table names: {extra}"
    hidden = sum(files.hidden for files in media.values())
    if hidden:
        yield f"ignored hidden files: {hidden}"
    bad = {f"{split}_{_clip(dialogue, turn)}": reason for (split, dialogue, turn), reason in BAD_CLIPS.items()}
    left_out = [
        f"{item.id} ({bad[item.id]})"
        for item in utterances
        if item.id in bad and media[str(item.split)].has(item.id.partition("_")[2])
    ]
    if left_out:
        yield f"sound and picture left out: {', '.join(sorted(left_out))}"


def _clip(dialogue: int, turn: int) -> str:
    return f"dia{dialogue}_utt{turn}"


def _utterance(row: dict[str, str], split: str, where: str, media: Media) -> tuple[Utterance | None, list[Problem]]:
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
    clip = _clip(dialogue, turn)
    bad = (split, dialogue, turn) in BAD_CLIPS
    video = None if bad else media.clips.get(clip)
    metadata = {key: row[key] for key in ("Season", "Episode", "StartTime", "EndTime") if row.get(key)}
    utterance = Utterance(
        id=f"{split}_{clip}",
        dataset=Meld.name,
        audio=None if bad else media.sounds.get(clip, video),
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
