"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset: 91 actors, 12 sentences, 6 emotions.

Cao et al. (2014), IEEE Transactions on Affective Computing 5(4), doi 10.1109/TAFFC.2014.2336244. ODbL 1.0.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances, media_notes
from emorec.datasets.splits import SpeakerFolds
from emorec.datasets.tables import read_table
from emorec.datasets.utterance import Task, Utterance

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
ACTORS = tuple(str(number) for number in range(1001, 1092))
CLIPS = 7442
# actor, sentence, emotion, level
FILE_NAME = re.compile(rf"({'|'.join(ACTORS)})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)})")
RENAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # as the authors ship it
# Clips reported as broken or silent: their sound and picture are left out.
BAD_CLIPS = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
SOUND_FOLDER, PICTURE_FOLDER = "AudioWAV", "VideoFlash"
DEMOGRAPHICS = "VideoDemographics.csv"
DEMOGRAPHIC_COLUMNS = ("ActorID", "Age", "Sex", "Race", "Ethnicity")

TASKS = {"emotion": Task(name="emotion", labels=tuple(EMOTIONS.values()), monitor="uar")}
# No folds are published with the corpus: every fifth actor tests, and the next fold's actors validate.
_FOLDS = tuple(frozenset(ACTORS[fold::5]) for fold in range(5))
PROTOCOLS = {"five_fold": SpeakerFolds(_FOLDS, (*_FOLDS[1:], _FOLDS[0]))}


@dataclass(kw_only=True)
class CremaD(Corpus):
    """CREMA-D as its authors ship it: `AudioWAV/1001_DFA_ANG_XX.wav`, `VideoFlash/1001_DFA_ANG_XX.flv` or either.

    A clip without a sound file is heard from its video. What `VideoDemographics.csv` says of the actors is kept.
    """

    name: ClassVar[str] = "crema_d"

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        from emorec.datasets.fixtures.crema_d import write

        write(folder)

    def scan(self) -> Manifest:
        self.require_folder("Get it from the repository CheyneyComputerScience/CREMA-D, with Git LFS.")
        problems: list[Problem] = []
        sounds = _files(self.folder / SOUND_FOLDER, ".wav", problems)
        pictures = _files(self.folder / PICTURE_FOLDER, ".flv", problems)
        people = _demographics(self.folder / DEMOGRAPHICS, problems)
        names = sorted({*sounds, *pictures})
        utterances = [_utterance(name, sounds.get(name), pictures.get(name), people) for name in names]
        if not utterances:
            detail = f"expected {SOUND_FOLDER}/*.wav or {PICTURE_FOLDER}/*.flv, found none"
            problems.append(Problem("missing", str(self.folder), detail))
        problems += check_utterances(utterances, TASKS)
        actors = {item.speaker for item in utterances}
        if len(actors) == len(ACTORS) and len(utterances) != CLIPS:
            detail = f"expected {CLIPS} clips of {len(ACTORS)} actors, found {len(utterances)}"
            problems.append(Problem("count", self.name, detail, fatal=False))
        return Manifest(
            dataset=self.name,
            utterances=tuple(utterances),
            tasks=TASKS,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=(*_notes(utterances), *(() if sounds else (f"no {SOUND_FOLDER}: sound is that of the videos",))),
        )


def _files(folder: Path, suffix: str, problems: list[Problem]) -> dict[str, Path]:
    """The clips in a folder by name; files whose names are none go to `problems`."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() != suffix or path.name.startswith("."):
            continue
        name = RENAMED.get(path.stem, path.stem)
        if FILE_NAME.fullmatch(name):
            found[name] = path
        else:
            detail = "expected a name such as 1001_DFA_ANG_XX with codes of the corpus; left out"
            problems.append(Problem("name", str(path), detail, fatal=False))
    return found


def _demographics(path: Path, problems: list[Problem]) -> dict[str, dict[str, str | int | float]]:
    """What the table says of each actor; without it nothing is lost but that."""
    found: list[Problem] = []
    people: dict[str, dict[str, str | int | float]] = {}
    for _, row in read_table(path, DEMOGRAPHIC_COLUMNS, found) if path.is_file() else []:
        values = {column.lower(): row[column].strip() for column in DEMOGRAPHIC_COLUMNS[1:] if row[column].strip()}
        people[row["ActorID"].strip()] = {
            column: int(value) if column == "age" and value.isdecimal() else value for column, value in values.items()
        }
    problems += [replace(problem, fatal=False) for problem in found]
    return people


def _utterance(
    name: str, sound: Path | None, picture: Path | None, people: dict[str, dict[str, str | int | float]]
) -> Utterance:
    actor, sentence, emotion, level = name.split("_")
    bad = name in BAD_CLIPS
    return Utterance(
        id=name,
        dataset=CremaD.name,
        audio=None if bad else sound or picture,
        video=None if bad else picture,
        text=SENTENCES[sentence],
        targets={"emotion": tuple(EMOTIONS).index(emotion)},
        speaker=actor,
        metadata={"level": LEVELS[level], "sentence": sentence, **people.get(actor, {})},
    )


def _notes(utterances: list[Utterance]) -> Iterator[str]:
    actors = {item.speaker for item in utterances}
    if len(actors) < len(ACTORS):
        yield f"{len(actors)} of {len(ACTORS)} actors"
    if left_out := [item.id for item in utterances if item.id in BAD_CLIPS]:
        yield f"sound and picture left out, reported as bad: {', '.join(left_out)}"
    usable = [item for item in utterances if item.id not in BAD_CLIPS]
    yield from media_notes(usable) if any(item.video for item in usable) else ()
