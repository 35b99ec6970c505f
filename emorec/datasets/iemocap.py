"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database: five sessions of two actors each.

Busso et al. (2008), Language Resources and Evaluation 42(4), doi 10.1007/s10579-008-9076-6. For research, on request.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from emorec.datasets.iemocap_annotations import DIMENSIONS, Turn, read_evaluation, read_transcripts
from emorec.datasets.manifest import Corpus, Manifest, Problem, count_problems, media_notes
from emorec.datasets.splits import HeldOutSpeakers, SpeakerFolds
from emorec.datasets.utterance import VOTES, Target, Task, Utterance

SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
RELEASE = "IEMOCAP_full_release"
# dialogue, session, gender of the actor on the left, kind of scene; then the gender of the speaker
NAME = re.compile(r"(Ses0([1-5])([FM])_(impro|script)\w*)_([FM])\w+")
GENDERS = {"F": "female", "M": "male"}
SCENARIOS = {"impro": "improvised", "script": "scripted"}

# The consensus codes of each class, by number of classes. A code is the first three letters of its label.
CLASSES: dict[int, dict[str, tuple[str, ...]]] = {
    4: {"neutral": ("neu",), "happy": ("hap", "exc"), "sad": ("sad",), "angry": ("ang",)},
    6: {name: (name[:3],) for name in ("happy", "sad", "neutral", "angry", "excited", "frustrated")},
}
RATINGS = ("neutral", "neutral state", "happiness", "excited", "sadness", "anger", "frustration")
CODE_OF_RATING = {rating: rating[:3] for rating in RATINGS}
# Published counts of the whole corpus. For six classes, the counts of the feature files that work on dialogues uses
# (first by DialogueRNN, Majumder et al. 2019).
COUNTS = {
    4: {"": 5531, "neutral": 1708, "happy": 1636, "sad": 1084, "angry": 1103}
    | dict(zip(SESSIONS, (1085, 1023, 1151, 1031, 1241), strict=True)),
    6: {"": 7433, "Session1 to Session4": 5810, "Session5": 1623},
}
COUNTED_IN = {4: "as published", 6: "as in published feature files (the consensus lines alone give 53 fewer, 7380)"}

SPEAKERS = tuple(f"Ses0{number}{gender}" for number in range(1, 6) for gender in "FM")
_SPEAKERS_OF_SESSION = tuple(frozenset(SPEAKERS[2 * number : 2 * number + 2]) for number in range(5))
PROTOCOLS = {
    "leave_one_session_out": SpeakerFolds(_SPEAKERS_OF_SESSION, (*_SPEAKERS_OF_SESSION[1:], _SPEAKERS_OF_SESSION[0])),
    "leave_one_speaker_out": SpeakerFolds(
        tuple(frozenset({speaker}) for speaker in SPEAKERS),
        tuple(_SPEAKERS_OF_SESSION[number // 2] - {speaker} for number, speaker in enumerate(SPEAKERS)),
    ),
    "session_5_test": HeldOutSpeakers(_SPEAKERS_OF_SESSION[4]),
}


@dataclass(kw_only=True)
class Iemocap(Corpus):
    """IEMOCAP as published. The root is the folder `IEMOCAP_full_release` or its parent.

    An utterance without a consensus on one of the classes has no target for `emotion`, only those for valence,
    activation and dominance. If outside raters voted for any of the classes, `emotion_votes` holds the shares of the
    votes: each rater has one vote, divided among the labels they gave, and labels outside the classes are dropped.

    The audio of an utterance is a separate file. Its video is one half of the frame in a segment of the dialogue video.

    Args:
        classes: 4 (excited counts as happy) or 6.
        improvised_only: leave out the scripted dialogues, whose lines recur across sessions.
    """

    name: ClassVar[str] = "iemocap"
    origin: ClassVar[str] = "Ask for it at the University of Southern California, https://sail.usc.edu/iemocap/."

    classes: Literal[4, 6] = 4
    improvised_only: bool = False

    def scan(self) -> Manifest:
        self.require_folder()
        release = self.folder / RELEASE if (self.folder / RELEASE).is_dir() else self.folder
        problems: list[Problem] = []
        utterances: list[Utterance] = []
        unparsed = 0
        for session in SESSIONS:
            # single raters have evaluations in subfolders, which are not read
            for path in sorted((release / session / "dialog" / "EmoEvaluation").glob("*.txt")):
                if path.is_file() and not path.name.startswith("."):
                    turns, lines = self._dialogue(release / session, path, problems)
                    utterances += turns
                    unparsed += lines
        tasks = _tasks(CLASSES[self.classes])
        if not utterances:
            detail = f"expected Session1/dialog/EmoEvaluation/*.txt here or under {RELEASE}/, found none"
            problems.append(Problem("missing", str(self.folder), detail))
        problems += _range_problems(utterances)
        absent = [session for session in SESSIONS if session not in {item.session for item in utterances}]
        problems += [] if absent else _count_problems(utterances, tasks["emotion"], self.classes)
        manifest = self.build_manifest(utterances, tasks, PROTOCOLS, problems)
        if self.improvised_only:
            utterances = [item for item in manifest.utterances if item.metadata["scenario"] == "improvised"]
            manifest = replace(manifest, utterances=tuple(utterances))
        return replace(manifest, notes=tuple(_notes(utterances, absent, unparsed)))

    def _dialogue(self, session: Path, evaluation: Path, problems: list[Problem]) -> tuple[list[Utterance], int]:
        """The utterances of a dialogue, and the number of lines of its transcript that could not be parsed."""
        dialogue = evaluation.stem
        transcript = session / "dialog" / "transcriptions" / evaluation.name
        texts, unparsed = read_transcripts(transcript) if transcript.is_file() else ({}, 0)
        video = session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi"
        utterances = []
        turns = sorted(read_evaluation(evaluation, problems), key=lambda turn: (turn.start, turn.name))
        for index, turn in enumerate(turns):
            match = NAME.fullmatch(turn.name)
            if match is None or match[1] != dialogue or session.name != f"Session{match[2]}":
                detail = f"expected utterances of {dialogue} such as {dialogue}_F000, got {turn.name!r}"
                problems.append(Problem("name", f"{session.name}/{evaluation.name}", detail))
                continue
            sound = session / "sentences" / "wav" / dialogue / f"{turn.name}.wav"
            utterances.append(
                Utterance(
                    id=turn.name,
                    dataset=self.name,
                    audio=sound if sound.is_file() else None,
                    audio_is_cut=True,
                    video=video if video.is_file() else None,
                    start=turn.start,
                    end=turn.end,
                    crop="left" if match[5] == match[3] else "right",
                    text=texts.get(turn.name),
                    targets=_targets(turn, CLASSES[self.classes]),
                    speaker=f"Ses0{match[2]}{match[5]}",
                    dialogue=dialogue,
                    turn=index,
                    session=session.name,
                    metadata={"scenario": SCENARIOS[match[4]], "gender": GENDERS[match[5]]},
                )
            )
        return utterances, unparsed


def _tasks(classes: Mapping[str, tuple[str, ...]]) -> dict[str, Task]:
    emotion = Task(name="emotion", labels=tuple(classes), monitor="uar" if len(classes) == 4 else "weighted_f1")
    dimensions = [Task(name=name, kind="regression", labels=(name,), monitor="ccc") for name in DIMENSIONS]
    return {task.name: task for task in (emotion, *dimensions)}


def _targets(turn: Turn, classes: Mapping[str, tuple[str, ...]]) -> dict[str, Target]:
    targets: dict[str, Target] = dict(zip(DIMENSIONS, turn.dimensions, strict=True))
    for number, codes in enumerate(classes.values()):
        if turn.consensus in codes:
            targets["emotion"] = number
    weights: dict[str, float] = defaultdict(float)  # by consensus code
    for labels in turn.ratings:
        for label in labels:
            weights[CODE_OF_RATING.get(label, "")] += 1 / len(labels)
    votes = [sum(weights[code] for code in codes) for codes in classes.values()]
    if any(votes):
        targets[f"emotion{VOTES}"] = tuple(vote / sum(votes) for vote in votes)
    return targets


def _range_problems(utterances: list[Utterance]) -> Iterator[Problem]:
    """Warnings for means outside of 1 to 5. The rating tool let some through, so they are kept."""
    for item in utterances:
        for name in DIMENSIONS:
            value = item.targets[name]
            if isinstance(value, float) and not 1 <= value <= 5:
                yield Problem("range", item.id, f"expected {name} from 1 to 5, got {value}", fatal=False)


def _count_problems(utterances: list[Utterance], task: Task, classes: int) -> list[Problem]:
    """Warnings for counts of the whole corpus that differ from the published ones."""
    counts: Counter[str] = Counter()
    for item in utterances:
        number = item.targets.get("emotion")
        if isinstance(number, int):
            session = str(item.session)
            counts.update(("", task.labels[number], session))
            counts["Session1 to Session4"] += session != "Session5"
    return count_problems(
        (f"{classes} classes{name and f', {name}'}", f"utterances {COUNTED_IN[classes]}", count, counts[name])
        for name, count in COUNTS[classes].items()
    )


def _notes(utterances: list[Utterance], absent: list[str], unparsed: int) -> Iterator[str]:
    if absent:
        yield f"absent sessions: {', '.join(absent)}"
    yield from media_notes(utterances)
    without_text = sum(item.text is None for item in utterances)
    if without_text:
        yield f"text: {len(utterances) - without_text} of {len(utterances)} utterances have a transcript"
    if unparsed:
        yield f"transcripts: {unparsed} lines have no utterance name with times"
