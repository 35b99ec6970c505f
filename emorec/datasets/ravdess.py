"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song.

Livingstone & Russo (2018), PLoS ONE 13(5), doi 10.1371/journal.pone.0196391. CC BY-NC-SA 4.0.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances, media_notes
from emorec.datasets.splits import SpeakerFolds
from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08
SEVEN_EMOTIONS = tuple(name for name in EMOTIONS if name != "calm")  # calm counts as neutral
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
ACTORS = tuple(f"{number:02d}" for number in range(1, 25))
CHANNEL_OF = {"01": "speech", "02": "song"}
CHANNELS = {"speech": ("speech",), "song": ("song",), "both": ("speech", "song")}
# Of each actor; nobody sings disgust or surprise, and actor 18 does not sing at all.
CLIPS_PER_ACTOR = {"speech": 60, "song": 44}
SPEAKERS = {"speech": ACTORS, "song": tuple(actor for actor in ACTORS if actor != "18")}
NEVER_SUNG = ("07", "08")
# modality, channel, emotion, intensity, statement, repetition, actor
FILE_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
AUDIO_VIDEO, VIDEO_ONLY, AUDIO_ONLY = "01", "02", "03"
# The endings that a modality's files have; a wav is taken before a flac of the same name.
SUFFIXES = {AUDIO_VIDEO: (".mp4",), VIDEO_ONLY: (".mp4",), AUDIO_ONLY: (".wav", ".flac")}
ALL_SUFFIXES = (".wav", ".flac", ".mp4")

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
LABELS = {8: EMOTIONS, 7: SEVEN_EMOTIONS}
TASKS = {"emotion": Task(name="emotion", labels=EMOTIONS, monitor="uar")}

# The archives of Zenodo record 1188976, by the name of a part.
ARCHIVES = {
    "speech_audio": "Audio_Speech_Actors_01-24.zip",
    "song_audio": "Audio_Song_Actors_01-24.zip",
    **{f"video_{actor}": f"Video_Speech_Actor_{actor}.zip" for actor in ACTORS},
    **{f"song_video_{actor}": f"Video_Song_Actor_{actor}.zip" for actor in SPEAKERS["song"]},
}


@dataclass(kw_only=True)
class Ravdess(Corpus):
    """RAVDESS as its authors ship it: `Actor_XX/MM-VC-EE-II-SS-RR-AA.wav` and `.mp4`, in any folder under the root.

    The audio-only and the audio-video rendering of a recitation hold the same sound: a recitation is one utterance,
    whose sound is the audio-only file or else that of the audio-video file, and whose picture is the audio-video file
    or else the video-only one. FLAC files and any sample rate are read as well; actors that are not there are named
    once and left out.

    Args:
        channel: "speech", "song" or "both".
        classes: 8, or 7 with calm counted as neutral.
    """

    name: ClassVar[str] = "ravdess"
    archives: ClassVar[Mapping[str, str]] = ARCHIVES

    channel: str = "speech"
    classes: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel not in CHANNELS:
            raise UserError(
                f"expected dataset.channel in {sorted(CHANNELS)}, got {self.channel!r} (dataset={self.name})"
            )
        if self.classes not in LABELS:
            raise UserError(f"expected dataset.classes in {sorted(LABELS)}, got {self.classes!r} (dataset={self.name})")

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        from emorec.datasets.fixtures.ravdess import write

        write(folder)

    def scan(self) -> Manifest:
        self.require_folder(
            "emorec data download dataset=ravdess parts=[speech_audio] fetches it from Zenodo record 1188976."
        )
        problems: list[Problem] = []
        labels, channels = LABELS[self.classes], CHANNELS[self.channel]
        tasks = {"emotion": replace(TASKS["emotion"], labels=labels)}
        renderings: dict[str, dict[str, Path]] = defaultdict(dict)
        for name, path in self._recordings(problems).items():
            renderings[name[3:]][name[:2]] = path
        utterances = [_utterance(name, files, labels) for name, files in sorted(renderings.items())]
        if not utterances:
            detail = f"expected {' or '.join(channels)} as 03-*.wav or .flac, or as 01-* or 02-*.mp4, under Actor_XX/"
            problems.append(Problem("missing", str(self.folder), f"{detail}, found none"))
        problems += check_utterances(utterances, tasks)
        problems += _incomplete_actors(utterances)
        return Manifest(
            dataset=self.name,
            utterances=tuple(utterances),
            tasks=tasks,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=(*_absences(utterances, channels), *_lone_modalities(utterances)),
        )

    def _files(self) -> list[Path]:
        """Sound and video files in folders of actors, also behind linked folders."""
        found = []
        for folder, _, names in os.walk(self.folder, followlinks=True):
            if Path(folder).name.startswith("Actor_"):
                found += [Path(folder) / name for name in names if not name.startswith(".")]
        return sorted(path for path in found if path.suffix.lower() in ALL_SUFFIXES)

    def _recordings(self, problems: list[Problem]) -> dict[str, Path]:
        """The path of each recording of the wanted channels by its file name without the ending."""
        found: dict[str, list[Path]] = {}
        for path in self._files():
            match = FILE_NAME.fullmatch(path.stem)
            if match is None or (CHANNEL_OF[match[2]] == "song" and match[3] in NEVER_SUNG):
                detail = "expected a name MM-VC-EE-II-SS-RR-AA with codes of the corpus; left out"
                problems.append(Problem("name", str(path), detail, fatal=False))
            elif path.parent.name != f"Actor_{match[7]}":
                detail = f"expected actor {match[7]} under Actor_{match[7]}, found it under {path.parent.name}"
                problems.append(Problem("name", str(path), detail))
            elif path.suffix.lower() in SUFFIXES[match[1]] and CHANNEL_OF[match[2]] in CHANNELS[self.channel]:
                found.setdefault(path.stem, []).append(path)
        for stem, paths in found.items():
            paths.sort(key=lambda path: ALL_SUFFIXES.index(path.suffix.lower()))
            for first, again in pairwise(paths):
                if first.suffix == again.suffix:
                    problems.append(Problem("duplicate", stem, f"found both {first} and {again}"))
        return {stem: paths[0] for stem, paths in found.items()}


def _utterance(name: str, files: dict[str, Path], labels: tuple[str, ...]) -> Utterance:
    """The utterance of a recitation.

    Args:
        name: its file name without the modality, which all renderings share.
        files: its renderings by modality.
        labels: of the task.
    """
    channel, emotion, intensity, statement, repetition, actor = name.split("-")
    label = EMOTIONS[int(emotion) - 1]
    return Utterance(
        id=name,
        dataset=Ravdess.name,
        audio=files.get(AUDIO_ONLY, files.get(AUDIO_VIDEO)),
        video=files.get(AUDIO_VIDEO, files.get(VIDEO_ONLY)),
        text=STATEMENTS[statement],
        targets={"emotion": labels.index(label if label in labels else "neutral")},
        speaker=actor,
        metadata={
            "channel": CHANNEL_OF[channel],
            "intensity": "normal" if intensity == "01" else "strong",
            "statement": int(statement),
            "repetition": int(repetition),
            "gender": "male" if int(actor) % 2 else "female",
        },
    )


def _clips(utterances: list[Utterance]) -> Counter[tuple[str, str]]:
    """How many clips there are by channel and actor."""
    return Counter((str(item.metadata["channel"]), str(item.speaker)) for item in utterances)


def _incomplete_actors(utterances: list[Utterance]) -> list[Problem]:
    return [
        Problem(
            "missing",
            f"Actor_{actor}",
            f"expected {CLIPS_PER_ACTOR[channel]} {channel} clips, found {count}",
            fatal=False,
        )
        for (channel, actor), count in sorted(_clips(utterances).items(), key=lambda entry: (entry[0][1], entry[0][0]))
        if count != CLIPS_PER_ACTOR[channel]
    ]


def _absences(utterances: list[Utterance], channels: tuple[str, ...]) -> Iterator[str]:
    """Notes on actors who are not there at all, then on those of whom one channel is not there."""
    clips = _clips(utterances)
    expected = sorted({actor for channel in channels for actor in SPEAKERS[channel]})
    absent = [actor for actor in expected if not any(clips[channel, actor] for channel in channels)]
    if absent:
        yield f"absent actors: {', '.join(absent)}"
    for channel in channels:
        rest = [actor for actor in SPEAKERS[channel] if actor not in absent and not clips[channel, actor]]
        if rest and any(clips[channel, actor] for actor in SPEAKERS[channel]):
            yield f"absent actors ({channel}): {', '.join(rest)}"
        elif rest:
            yield f"no {channel} clips"


def _lone_modalities(utterances: list[Utterance]) -> tuple[str, ...]:
    """Notes on a modality that some recitations lack; a copy with sound alone is nothing to speak of."""
    if all(item.video is None for item in utterances):
        return ()
    return media_notes(utterances)
