"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset: 91 actors, 12 sentences, 6 emotions.

Cao et al. (2014), IEEE Transactions on Affective Computing 5(4), doi 10.1109/TAFFC.2014.2336244. ODbL 1.0.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Part, Problem, count_problems, media_notes
from emorec.datasets.splits import SpeakerFolds
from emorec.datasets.tables import MOST_DIGITS, read_table
from emorec.datasets.utterance import Metadata, Task, Utterance

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
RENAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # misnamed in the published corpus
# Clips reported as broken or silent: their audio and video are left out.
BAD_CLIPS = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
AUDIO_FOLDER, VIDEO_FOLDER = "AudioWAV", "VideoFlash"
DEMOGRAPHICS = "VideoDemographics.csv"
DEMOGRAPHIC_COLUMNS = ("ActorID", "Age", "Sex", "Race", "Ethnicity")

TASKS = {"emotion": Task(name="emotion", labels=tuple(EMOTIONS.values()), monitor="uar")}
# The authors published no folds: every fifth actor is in test, and the actors of the next fold are in val.
_FOLDS = tuple(frozenset(ACTORS[fold::5]) for fold in range(5))
PROTOCOLS = {"five_fold": SpeakerFolds(_FOLDS, (*_FOLDS[1:], _FOLDS[0]))}


@dataclass(kw_only=True)
class CremaD(Corpus):
    """CREMA-D as published: `AudioWAV/1001_DFA_ANG_XX.wav`, `VideoFlash/1001_DFA_ANG_XX.flv` or both.

    A clip without a sound file takes the sound of its video. Metadata include the columns of `VideoDemographics.csv`.
    """

    name: ClassVar[str] = "crema_d"
    origin: ClassVar[str] = (
        "emorec data download dataset=crema_d parts=[audio] gets it from the repository CheyneyComputerScience/CREMA-D."
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "audio": Part(AUDIO_FOLDER),
        "video": Part(VIDEO_FOLDER),
        "actors": Part(DEMOGRAPHICS),
    }

    def scan(self) -> Manifest:
        self.require_folder()
        problems: list[Problem] = []
        sounds = _files(self.folder / AUDIO_FOLDER, ".wav", problems)
        videos = _files(self.folder / VIDEO_FOLDER, ".flv", problems)
        people = _demographics(self.folder / DEMOGRAPHICS, problems)
        utterances = [_utterance(name, sounds.get(name), videos.get(name), people) for name in {*sounds, *videos}]
        if not utterances:
            detail = f"expected {AUDIO_FOLDER}/*.wav or {VIDEO_FOLDER}/*.flv, found none"
            problems.append(Problem("missing", str(self.folder), detail))
        if len({item.speaker for item in utterances}) == len(ACTORS):
            problems += count_problems([(self.name, f"clips of {len(ACTORS)} actors", CLIPS, len(utterances))])
        notes = [*_notes(utterances), *(() if sounds else (f"no {AUDIO_FOLDER}: the sound is that of the videos",))]
        return self.build_manifest(utterances, TASKS, PROTOCOLS, problems, notes)


def _files(folder: Path, suffix: str, problems: list[Problem]) -> dict[str, Path]:
    """The clips in a folder by name. Files with other names are added to `problems`."""
    files = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() != suffix or path.name.startswith("."):
            continue
        name = RENAMED.get(path.stem, path.stem)
        if FILE_NAME.fullmatch(name):
            files[name] = path
        else:
            detail = "expected a name such as 1001_DFA_ANG_XX with codes of the corpus; left out"
            problems.append(Problem("name", str(path), detail, fatal=False))
    return files


def _demographics(path: Path, problems: list[Problem]) -> dict[str, Metadata]:
    """The columns of the optional table for each actor. Its problems are not fatal."""
    table_problems: list[Problem] = []
    people: dict[str, Metadata] = {}
    for _, row in read_table(path, DEMOGRAPHIC_COLUMNS, table_problems) if path.is_file() else []:
        values = {column.lower(): row[column].strip() for column in DEMOGRAPHIC_COLUMNS[1:] if row[column].strip()}
        people[row["ActorID"].strip()] = {
            column: int(value) if column == "age" and value.isdecimal() and len(value) <= MOST_DIGITS else value
            for column, value in values.items()
        }
    problems += [replace(problem, fatal=False) for problem in table_problems]
    return people


def _utterance(name: str, sound: Path | None, video: Path | None, people: dict[str, Metadata]) -> Utterance:
    actor, sentence, emotion, level = name.split("_")
    bad = name in BAD_CLIPS
    return Utterance(
        id=name,
        dataset=CremaD.name,
        audio=None if bad else sound or video,
        video=None if bad else video,
        text=SENTENCES[sentence],
        targets={"emotion": tuple(EMOTIONS).index(emotion)},
        speaker=actor,
        metadata={"level": LEVELS[level], "sentence": sentence, **people.get(actor, {})},
    )


def _notes(utterances: list[Utterance]) -> Iterator[str]:
    actors = {item.speaker for item in utterances}
    if len(actors) < len(ACTORS):
        yield f"{len(actors)} of {len(ACTORS)} actors"
    if left_out := sorted(item.id for item in utterances if item.id in BAD_CLIPS):
        yield f"audio and video left out, reported as bad: {', '.join(left_out)}"
    usable = [item for item in utterances if item.id not in BAD_CLIPS]
    yield from media_notes(usable) if any(item.video for item in usable) else ()
