"""The demo corpus: short synthetic clips of emotional speech, made by code on first use.

Four emotions lie on two axes. The sound tells arousal, the face tells valence, the words hint at both and are often
wrong: each modality alone is ambiguous, all three together are not.
"""

import csv
import logging
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.tables import read_table
from emorec.datasets.utterance import Task, Utterance
from emorec.storage.atomic import make_folder

log = logging.getLogger(__name__)

EMOTIONS = ("angry", "calm", "happy", "sad")
AROUSAL = {"angry": 1.0, "happy": 1.0, "calm": -1.0, "sad": -1.0}
VALENCE = {"angry": -1.0, "happy": 1.0, "calm": 1.0, "sad": -1.0}
SPLIT_OF_SPEAKER = ("train", "train", "train", "train", "val", "val", "test", "test")
CLIPS_PER_SPEAKER = 30
SEED = 20240501
VERSION = 1  # goes with the folder's name: a corpus made by other code is another corpus

TASKS = {"emotion": Task(name="emotion", labels=EMOTIONS, monitor="uar")}
PROTOCOLS = {"official": OfficialSplit(separates_speakers=True)}
TABLE = "utterances.csv"
COLUMNS = ("id", "speaker", "split", "emotion", "text")


@dataclass(kw_only=True)
class Demo(Corpus):
    """The demo corpus under `root`, made there if it is not there yet: FLAC, MP4 with sound, and a CSV."""

    name: ClassVar[str] = "demo"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.folder = self.folder / f"version_{VERSION}"

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        make_corpus(folder / f"version_{VERSION}", clips_per_speaker=4)

    def scan(self) -> Manifest:
        if not self.folder.is_dir():
            make_corpus(self.folder)
        problems: list[Problem] = []
        utterances = []
        for _, row in read_table(self.folder / TABLE, COLUMNS, problems):
            if row["emotion"] not in EMOTIONS:
                problems.append(Problem("label", row["id"], f"expected emotion in {EMOTIONS}, got {row['emotion']!r}"))
                continue
            utterances.append(
                Utterance(
                    id=row["id"],
                    dataset=self.name,
                    audio=self.folder / "audio" / f"{row['id']}.flac",
                    video=self.folder / "video" / f"{row['id']}.mp4",
                    text=row["text"],
                    targets={"emotion": EMOTIONS.index(row["emotion"])},
                    speaker=row["speaker"],
                    split=row["split"],
                )
            )
        problems += check_utterances(utterances, TASKS)
        return Manifest(
            dataset=self.name,
            utterances=tuple(utterances),
            tasks=TASKS,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
        )


def make_corpus(folder: Path, *, speakers: int = 8, clips_per_speaker: int = CLIPS_PER_SPEAKER) -> None:
    """Makes the demo corpus in `folder`: in a folder beside it first, then renamed, so that it is whole or not there.

    Args:
        folder: where it will be.
        speakers: how many of the speakers.
        clips_per_speaker: how many clips each of them speaks.
    """
    from emorec.datasets.demo_synthesis import write_clip

    make_folder(folder.parent)
    draft = make_folder(folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp")
    log.info("making the demo corpus in %s: %d clips", folder, speakers * clips_per_speaker)
    try:
        make_folder(draft / "audio")
        make_folder(draft / "video")
        with (draft / TABLE).open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for speaker in range(speakers):
                for clip in range(clips_per_speaker):
                    name = f"speaker{speaker}_{clip:02d}"
                    emotion = EMOTIONS[(speaker + clip) % len(EMOTIONS)]
                    generator = np.random.default_rng((SEED, speaker, clip))
                    text = write_clip(
                        draft / "audio" / f"{name}.flac",
                        draft / "video" / f"{name}.mp4",
                        speaker=speaker,
                        arousal=AROUSAL[emotion],
                        valence=VALENCE[emotion],
                        generator=generator,
                    )
                    table.writerow((name, f"speaker{speaker}", SPLIT_OF_SPEAKER[speaker], emotion, text))
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process made the same corpus in the meantime
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
