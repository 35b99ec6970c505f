"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song.

Livingstone & Russo (2018), PLoS ONE 13(5), doi 10.1371/journal.pone.0196391. CC BY-NC-SA 4.0.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

from emorec.datasets.manifest import Corpus, Manifest, Part, Problem, count_problems, media_notes
from emorec.datasets.splits import SpeakerFolds
from emorec.datasets.utterance import Task, Utterance

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08
SEVEN_EMOTIONS = tuple(name for name in EMOTIONS if name != "calm")  # calm counts as neutral
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
ACTORS = tuple(f"{number:02d}" for number in range(1, 25))
CHANNEL_OF = {"01": "speech", "02": "song"}
CHANNELS = {"speech": ("speech",), "song": ("song",), "both": ("speech", "song")}
# Clips of each actor. No song expresses disgust or surprise, and actor 18 does not sing.
CLIPS_PER_ACTOR = {"speech": 60, "song": 44}
SPEAKERS = {"speech": ACTORS, "song": tuple(actor for actor in ACTORS if actor != "18")}
NEVER_SUNG = ("07", "08")
# modality, channel, emotion, intensity, statement, repetition, actor
FILE_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
AUDIO_VIDEO, VIDEO_ONLY, AUDIO_ONLY = "01", "02", "03"
# The suffixes of the files of each modality. A wav file takes precedence over a flac file of the same name.
SUFFIXES = {AUDIO_VIDEO: (".mp4",), VIDEO_ONLY: (".mp4",), AUDIO_ONLY: (".wav", ".flac")}
ALL_SUFFIXES = (".wav", ".flac", ".mp4")

# Test and validation actors of Luna-Jiménez et al. (2021), Sensors 21(22):7665, in folds 0 to 4.
FIVE_FOLD_TEST = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
FIVE_FOLD_VAL = ((3, 6), (10, 11), (8, 17), (1, 14), (2, 5))
# Test actors of EmoBox (Ma et al. 2024, arXiv 2406.07162). It has no validation actors: the next fold is used.
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
    """RAVDESS as published: `Actor_XX/MM-VC-EE-II-SS-RR-AA.wav` and `.mp4`, in any folder under the root.

    The audio-only and the audio-video version of a recording have the same sound, so they are one utterance. Its audio
    is the audio-only file or else the audio-video file, and its video is the audio-video file or else the video-only
    file. FLAC files and any sample rate are accepted. A note lists absent actors.

    Args:
        channel: "speech", "song" or "both".
        classes: 8, or 7 with calm counted as neutral.
    """

    name: ClassVar[str] = "ravdess"
    origin: ClassVar[str] = (
        "emorec data download dataset=ravdess parts=[speech_audio] gets it from Zenodo record 1188976."
    )
    parts: ClassVar[Mapping[str, Part]] = {name: Part(archive) for name, archive in ARCHIVES.items()}

    channel: Literal["speech", "song", "both"] = "speech"
    classes: Literal[8, 7] = 8

    def scan(self) -> Manifest:
        self.require_folder()
        problems: list[Problem] = []
        labels, channels = LABELS[self.classes], CHANNELS[self.channel]
        tasks = {"emotion": replace(TASKS["emotion"], labels=labels)}
        versions: dict[str, dict[str, Path]] = defaultdict(dict)
        for name, path in self._recordings(problems).items():
            versions[name[3:]][name[:2]] = path
        utterances = [_utterance(name, files, labels) for name, files in sorted(versions.items())]
        if not utterances:
            detail = f"expected {' or '.join(channels)} as 03-*.wav or .flac, or as 01-* or 02-*.mp4, under Actor_XX/"
            problems.append(Problem("missing", str(self.folder), f"{detail}, found none"))
        counts = Counter((str(item.speaker), str(item.metadata["channel"])) for item in utterances)
        rows = [
            (f"Actor_{actor}", f"{channel} clips", CLIPS_PER_ACTOR[channel], count)
            for (actor, channel), count in sorted(counts.items())
        ]
        problems += count_problems(rows, kind="missing")
        notes = [*_absences(counts, channels)]
        if any(item.video for item in utterances):  # a copy with audio alone is common, so it needs no note
            notes += media_notes(utterances)
        return self.build_manifest(utterances, tasks, PROTOCOLS, problems, notes)

    def _recordings(self, problems: list[Problem]) -> dict[str, Path]:
        """The path of each recording of the chosen channels by its file name without suffix."""
        recordings: dict[str, list[Path]] = defaultdict(list)
        for path in self.files():
            in_actor_folder = path.parent.name.startswith("Actor_") and not path.name.startswith(".")
            if not in_actor_folder or path.suffix.lower() not in ALL_SUFFIXES:
                continue
            match = FILE_NAME.fullmatch(path.stem)
            if match is None or (CHANNEL_OF[match[2]] == "song" and match[3] in NEVER_SUNG):
                detail = "expected a name MM-VC-EE-II-SS-RR-AA with codes of the corpus; left out"
                problems.append(Problem("name", str(path), detail, fatal=False))
            elif path.parent.name != f"Actor_{match[7]}":
                detail = f"expected actor {match[7]} in Actor_{match[7]}, found it in {path.parent.name}"
                problems.append(Problem("name", str(path), detail))
            elif path.suffix.lower() in SUFFIXES[match[1]] and CHANNEL_OF[match[2]] in CHANNELS[self.channel]:
                recordings[path.stem].append(path)
        for stem, paths in recordings.items():
            paths.sort(key=lambda path: ALL_SUFFIXES.index(path.suffix.lower()))
            for first, again in pairwise(paths):
                if first.suffix == again.suffix:
                    problems.append(Problem("duplicate", stem, f"found both {first} and {again}"))
        return {stem: paths[0] for stem, paths in recordings.items()}


def _utterance(name: str, files: dict[str, Path], labels: tuple[str, ...]) -> Utterance:
    """The utterance of a recording. `name`: its file name without the modality; `files`: its versions by modality."""
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


def _absences(counts: Counter[tuple[str, str]], channels: tuple[str, ...]) -> Iterator[str]:
    """Notes on absent actors, then on actors without clips of one channel. `counts`: clips by actor and channel."""
    expected = sorted({actor for channel in channels for actor in SPEAKERS[channel]})
    absent = [actor for actor in expected if not any(counts[actor, channel] for channel in channels)]
    if absent:
        yield f"absent actors: {', '.join(absent)}"
    for channel in channels:
        rest = [actor for actor in SPEAKERS[channel] if actor not in absent and not counts[actor, channel]]
        if rest and any(counts[actor, channel] for actor in SPEAKERS[channel]):
            yield f"absent actors ({channel}): {', '.join(rest)}"
        elif rest:
            yield f"no {channel} clips"
