"""MELD, the Multimodal EmotionLines Dataset: dialogues of the TV series Friends.

Poria et al. (2019), ACL, arXiv 1810.02508. GPL-3.0.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Part, Problem, count_problems, media_notes
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.tables import Row, read_rows
from emorec.datasets.utterance import Task, Utterance

EMOTIONS = ("neutral", "joy", "sadness", "anger", "fear", "disgust", "surprise")
SENTIMENTS = ("neutral", "positive", "negative")
TASKS = {
    "emotion": Task(name="emotion", labels=EMOTIONS, monitor="weighted_f1"),
    "sentiment": Task(name="sentiment", labels=SENTIMENTS, monitor="weighted_f1"),
}
PROTOCOLS = {"official": OfficialSplit()}
TABLES = {"train": "train_sent_emo.csv", "val": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
# Utterances of each emotion in the authors' tables, in the order of EMOTIONS.
COUNTS = {
    "train": (4710, 1743, 683, 1109, 268, 271, 1205),
    "val": (470, 163, 111, 153, 40, 22, 150),
    "test": (1256, 402, 208, 345, 50, 68, 281),
}
TOTAL = sum(map(sum, COUNTS.values()))
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
# Where the tables and folders of clips may be: in the root, or as they are downloaded and unpacked.
BASES = ("", "MELD.Raw", "MELD.Raw/MELD.Raw", "data/MELD")
# The folders of the authors' archive, and those of other copies.
CLIP_FOLDERS = {
    "train": ("train/train_splits", "train_splits", "videos/train"),
    "val": ("dev/dev_splits_complete", "dev_splits_complete", "videos/dev", "videos/val"),
    "test": ("test/output_repeated_splits_test", "output_repeated_splits_test", "videos/test"),
}
SOUND_FOLDERS = {"train": ("audios/train",), "val": ("audios/dev", "audios/val"), "test": ("audios/test",)}
# Clips of the authors' archive that are broken, absent, or minutes too long: their audio and video are left out.
BAD_CLIPS = {
    ("train", 125, 3): "corrupt",
    ("val", 110, 7): "missing",
    ("test", 38, 4): "cut wrongly",
    ("test", 220, 0): "cut wrongly",
    ("train", 309, 0): "cut wrongly",
}
# Some copies contain Windows-1252 quotes as C1 control characters. Five code points are undefined in Windows-1252.
C1_CHARACTERS = {
    code: bytes([code]).decode("cp1252") for code in range(0x80, 0xA0) if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}


def normalise_text(text: str) -> str:
    """The same text for all copies of the corpus: C1 control characters are decoded, and whitespace is collapsed."""
    return " ".join(text.translate(C1_CHARACTERS).split())


@dataclass(frozen=True)
class Media:
    """The media files of a split, by name without suffix."""

    clips: dict[str, Path]  # videos with sound
    sounds: dict[str, Path]  # separate sound files
    hidden: int  # number of hidden files, such as the `._*` of some archives


@dataclass(kw_only=True)
class Meld(Corpus):
    """MELD from its three annotation tables, and from the clips where they exist.

    Clips that are in no table are ignored. The clips of `BAD_CLIPS` are left out, but their text is kept. Notes count
    both.
    """

    name: ClassVar[str] = "meld"
    origin: ClassVar[str] = (
        "emorec data download dataset=meld parts=[tables] gets its texts, parts=all also its clips (11 GB)."
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "tables": Part("data/MELD", "meld_tables"),
        "clips": Part("MELD.Raw.tar.gz"),
    }

    def scan(self) -> Manifest:
        self.require_folder()
        problems: list[Problem] = []
        utterances: list[Utterance] = []
        media = {split: _media(self.folder, split) for split in TABLES}
        for split, table in TABLES.items():
            rows = read_rows(_table(self.folder, table), COLUMNS, problems)
            utterances += [item for row in rows if (item := _utterance(row, split, media[split]))]
        if len(utterances) >= TOTAL:
            counts = Counter((item.split, item.targets["emotion"]) for item in utterances)
            problems += count_problems(
                (split, f"utterances of {EMOTIONS[number]} as published", count, counts[split, number])
                for split, expected in COUNTS.items()
                for number, count in enumerate(expected)
            )
        partial = [f"{len(utterances)} of {TOTAL} utterances"] if len(utterances) < TOTAL else []
        notes = [*partial, *media_notes(utterances), *_file_notes(utterances, media)]
        return self.build_manifest(utterances, TASKS, PROTOCOLS, problems, notes)


def _table(root: Path, name: str) -> Path:
    """The first table of this name; where there is none, the place of the first."""
    paths = [root / base / name for base in BASES]
    return next((path for path in paths if path.exists()), paths[0])


def _media(root: Path, split: str) -> Media:
    clips, hidden_clips = _files(root, CLIP_FOLDERS[split], (".mp4",))
    sounds, hidden_sounds = _files(root, SOUND_FOLDERS[split], (".flac", ".wav"))
    return Media(clips, sounds, hidden_clips + hidden_sounds)


def _files(root: Path, folders: Iterable[str], suffixes: tuple[str, ...]) -> tuple[dict[str, Path], int]:
    """The files with these suffixes by name, from the first folder that has them, and the number of hidden ones."""
    files: dict[str, Path] = {}
    hidden = 0
    for folder in (root / base / name for base in BASES for name in folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix.lower() in suffixes and path.name.startswith("."):
                hidden += 1
            elif path.suffix.lower() in suffixes:
                files.setdefault(path.stem, path)
    return files, hidden


def _file_notes(utterances: list[Utterance], media: dict[str, Media]) -> Iterator[str]:
    """Notes on files that exist and are not used."""
    annotated = {item.id for item in utterances}
    names = [f"{split}_{name}" for split, files in media.items() for name in (*files.clips, *files.sounds)]
    if extra := sum(name not in annotated for name in names):
        yield f"ignored files that are in no table: {extra}"
    if hidden := sum(files.hidden for files in media.values()):
        yield f"ignored hidden files: {hidden}"
    bad = {f"{split}_{_clip(dialogue, turn)}": reason for (split, dialogue, turn), reason in BAD_CLIPS.items()}
    left_out = [f"{name} ({bad[name]})" for name in sorted(annotated.intersection(bad).intersection(names))]
    if left_out:
        yield f"audio and video left out: {', '.join(left_out)}"


def _clip(dialogue: int, turn: int) -> str:
    return f"dia{dialogue}_utt{turn}"


def _utterance(row: Row, split: str, media: Media) -> Utterance | None:
    """The utterance of a row; `None` if the row has problems."""
    dialogue, turn = row.whole_number("Dialogue_ID"), row.whole_number("Utterance_ID")
    emotion = row.index("Emotion", EMOTIONS, lower=True)
    sentiment = row.index("Sentiment", SENTIMENTS, lower=True)
    if dialogue is None or turn is None or emotion is None or sentiment is None:
        return None
    clip = _clip(dialogue, turn)
    bad = (split, dialogue, turn) in BAD_CLIPS
    video = None if bad else media.clips.get(clip)
    return Utterance(
        id=f"{split}_{clip}",
        dataset=Meld.name,
        audio=None if bad else media.sounds.get(clip, video),
        video=video,
        text=normalise_text(row.cells["Utterance"]),
        targets={"emotion": emotion, "sentiment": sentiment},
        speaker=normalise_text(row.cells["Speaker"]),
        dialogue=f"{split}_dia{dialogue}",
        turn=turn,
        split=split,
        metadata={key: row.cells[key] for key in ("Season", "Episode", "StartTime", "EndTime") if row.cells.get(key)},
    )
