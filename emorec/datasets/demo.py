"""The demo corpus: short synthetic clips of emotional speech, generated on first use.

Four emotions lie on two axes. The voice expresses arousal, the face expresses valence, and the words hint at both but
are often wrong: each modality alone is ambiguous, all three together are not.
"""

import csv
import logging
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from emorec.datasets.manifest import Corpus, Manifest, Problem
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.tables import read_rows
from emorec.datasets.utterance import Task, Utterance
from emorec.storage.atomic import make_folder, share, sync, sync_tree
from emorec.storage.folders import temporary_path

log = logging.getLogger(__name__)

EMOTIONS = ("angry", "calm", "happy", "sad")
AROUSAL = {"angry": 1.0, "happy": 1.0, "calm": -1.0, "sad": -1.0}
VALENCE = {"angry": -1.0, "happy": 1.0, "calm": 1.0, "sad": -1.0}
SPLIT_OF_SPEAKER = ("train", "train", "train", "train", "val", "val", "test", "test")
CLIPS_PER_SPEAKER = 30
SEED = 20240501
VERSION = 1  # part of the folder name: increase it when the generated corpus changes

TASKS = {"emotion": Task(name="emotion", labels=EMOTIONS, monitor="uar")}
PROTOCOLS = {"official": OfficialSplit(separates_speakers=True)}
TABLE = "utterances.csv"
COLUMNS = ("id", "speaker", "split", "emotion", "text")


@dataclass(kw_only=True)
class Demo(Corpus):
    """The demo corpus under `root`, generated if it does not exist: FLAC, MP4 with sound, and a CSV table."""

    name: ClassVar[str] = "demo"
    origin: ClassVar[str] = "emorec makes it at its first use."

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
        for row in read_rows(self.folder / TABLE, COLUMNS, problems):
            cells, emotion = row.cells, row.index("emotion", EMOTIONS)
            if emotion is None:
                continue
            utterances.append(
                Utterance(
                    id=cells["id"],
                    dataset=self.name,
                    audio=self.folder / "audio" / f"{cells['id']}.flac",
                    video=self.folder / "video" / f"{cells['id']}.mp4",
                    text=cells["text"],
                    targets={"emotion": emotion},
                    speaker=cells["speaker"],
                    split=cells["split"],
                )
            )
        return self.build_manifest(utterances, TASKS, PROTOCOLS, problems)


def make_corpus(folder: Path, *, speakers: int = 8, clips_per_speaker: int = CLIPS_PER_SPEAKER) -> None:
    """Generates the demo corpus in a temporary folder and renames it to `folder`, which is therefore never partial."""
    from emorec.datasets.demo_synthesis import write_clip

    draft = make_folder(temporary_path(folder))
    log.info("generating the demo corpus in %s: %d clips", folder, speakers * clips_per_speaker)
    try:
        make_folder(draft / "audio")
        make_folder(draft / "video")
        with (draft / TABLE).open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for speaker, clip in product(range(speakers), range(clips_per_speaker)):
                name = f"speaker{speaker}_{clip:02d}"
                emotion = EMOTIONS[(speaker + clip) % len(EMOTIONS)]
                text = write_clip(
                    draft / "audio" / f"{name}.flac",
                    draft / "video" / f"{name}.mp4",
                    speaker=speaker,
                    arousal=AROUSAL[emotion],
                    valence=VALENCE[emotion],
                    generator=np.random.default_rng((SEED, speaker, clip)),
                )
                table.writerow((name, f"speaker{speaker}", SPLIT_OF_SPEAKER[speaker], emotion, text))
        share(draft)
        sync_tree(draft)
        try:
            draft.rename(folder)
            sync(folder.parent)
        except OSError:
            if not folder.is_dir():  # otherwise another process generated the same corpus in the meantime
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
