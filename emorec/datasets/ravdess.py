"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song: speech, audio.

Livingstone & Russo (2018), PLoS ONE 13(5), doi 10.1371/journal.pone.0196391. CC BY-NC-SA 4.0.
"""

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances
from emorec.datasets.splits import SpeakerFolds
from emorec.datasets.utterance import Task, Utterance

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
ACTORS = tuple(f"{number:02d}" for number in range(1, 25))
SUFFIXES = (".wav", ".flac")  # a wav is taken before a flac of the same name
# modality, channel, emotion, intensity, statement, repetition, actor
FILE_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
AUDIO_ONLY, SPEECH = "03", "01"
CLIPS_PER_ACTOR = 60

# Test actors of Luna-Jiménez et al. (2021), Sensors 21(22):7665, in folds 0 to 4, with a fold's validation actors.
FIVE_FOLD_TEST = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
FIVE_FOLD_VAL = ((3, 6), (10, 11), (8, 17), (1, 14), (2, 5))
# Test actors of EmoBox (Ma et al. 2024, arXiv 2406.07162), which names no validation actors: the next fold's are taken.
SIX_FOLD_TEST = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))
SIX_FOLD_VAL = (*SIX_FOLD_TEST[1:], SIX_FOLD_TEST[0])


def _actors(folds: tuple[tuple[int, ...], ...]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(f"{number:02d}" for number in fold) for fold in folds)


PROTOCOLS = {
    "five_fold": SpeakerFolds(_actors(FIVE_FOLD_TEST), _actors(FIVE_FOLD_VAL)),
    "six_fold": SpeakerFolds(_actors(SIX_FOLD_TEST), _actors(SIX_FOLD_VAL)),
}
TASKS = {"emotion": Task(name="emotion", labels=EMOTIONS, monitor="uar")}


@dataclass(kw_only=True)
class Ravdess(Corpus):
    """RAVDESS speech as its authors ship it: `Actor_XX/03-01-EE-II-SS-RR-AA.wav`, in any folder under the root.

    FLAC files and any sample rate are read as well; actors that are not there are named once and left out.
    """

    name: ClassVar[str] = "ravdess"

    def scan(self) -> Manifest:
        self.require_folder("Download Audio_Speech_Actors_01-24.zip from Zenodo record 1188976 and unpack it there.")
        problems: list[Problem] = []
        paths = self._recordings(problems)
        utterances = [_utterance(name, path) for name, path in sorted(paths.items())]
        if not utterances:
            problems.append(
                Problem("missing", str(self.folder), "expected 03-01-*.wav or .flac under Actor_XX/, found none")
            )
        problems += check_utterances(utterances, TASKS)
        present = {item.speaker for item in utterances}
        absent = [actor for actor in ACTORS if actor not in present]
        for actor in sorted(filter(None, present)):
            count = sum(item.speaker == actor for item in utterances)
            if count != CLIPS_PER_ACTOR:
                detail = f"expected {CLIPS_PER_ACTOR} speech clips, found {count}"
                problems.append(Problem("missing", f"Actor_{actor}", detail, fatal=False))
        return Manifest(
            dataset=self.name,
            utterances=tuple(utterances),
            tasks=TASKS,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=(f"absent actors: {', '.join(absent)}",) if absent else (),
        )

    def _sound_files(self) -> list[Path]:
        """Sound files in folders of actors, also behind linked folders."""
        found = []
        for folder, _, names in os.walk(self.folder, followlinks=True):
            if Path(folder).name.startswith("Actor_"):
                found += [Path(folder) / name for name in names if not name.startswith(".")]
        return sorted(path for path in found if path.suffix.lower() in SUFFIXES)

    def _recordings(self, problems: list[Problem]) -> dict[str, Path]:
        """The path of each speech recording by its file name without the ending."""
        found: dict[str, list[Path]] = {}
        for path in self._sound_files():
            match = FILE_NAME.fullmatch(path.stem)
            if match is None:
                detail = "expected a name MM-VC-EE-II-SS-RR-AA with codes of the corpus; left out"
                problems.append(Problem("name", str(path), detail, fatal=False))
            elif path.parent.name != f"Actor_{match[7]}":
                detail = f"expected actor {match[7]} under Actor_{match[7]}, found it under {path.parent.name}"
                problems.append(Problem("name", str(path), detail))
            elif (match[1], match[2]) == (AUDIO_ONLY, SPEECH):
                found.setdefault(path.stem, []).append(path)
        for stem, paths in found.items():
            paths.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()))
            for first, again in pairwise(paths):
                if first.suffix == again.suffix:
                    problems.append(Problem("duplicate", stem, f"found both {first} and {again}"))
        return {stem: paths[0] for stem, paths in found.items()}


def _utterance(name: str, path: Path) -> Utterance:
    _, channel, emotion, intensity, statement, repetition, actor = name.split("-")
    return Utterance(
        id="-".join((channel, emotion, intensity, statement, repetition, actor)),  # both renderings share it
        dataset=Ravdess.name,
        audio=path,
        text=STATEMENTS[statement],
        targets={"emotion": int(emotion) - 1},
        speaker=actor,
        metadata={
            "intensity": "normal" if intensity == "01" else "strong",
            "statement": int(statement),
            "repetition": int(repetition),
            "gender": "male" if int(actor) % 2 else "female",
        },
    )
