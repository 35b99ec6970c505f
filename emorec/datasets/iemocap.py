"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database: five sessions of two actors each.

Busso et al. (2008), Language Resources and Evaluation 42(4), doi 10.1007/s10579-008-9076-6. For research, on request.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.iemocap_annotations import DIMENSIONS, Turn, read_evaluation, read_transcripts
from emorec.datasets.manifest import Corpus, Manifest, Problem, check_utterances, media_notes
from emorec.datasets.splits import HeldOutSpeakers, SpeakerFolds
from emorec.datasets.utterance import VOTES, Target, Task, Utterance
from emorec.errors import UserError

SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
RELEASE = "IEMOCAP_full_release"
# dialogue, session, the gender whose actor is on the left, kind of scene; then the speaker's gender
NAME = re.compile(r"(Ses0([1-5])([FM])_(impro|script)\w*)_([FM])\w+")
GENDERS = {"F": "female", "M": "male"}
SCENARIOS = {"impro": "improvised", "script": "scripted"}

# The consensus codes of each class, by number of classes.
CLASSES: dict[int, dict[str, tuple[str, ...]]] = {
    4: {"neutral": ("neu",), "happy": ("hap", "exc"), "sad": ("sad",), "angry": ("ang",)},
    6: {
        "happy": ("hap",),
        "sad": ("sad",),
        "neutral": ("neu",),
        "angry": ("ang",),
        "excited": ("exc",),
        "frustrated": ("fru",),
    },
}
CODE_OF_RATING = {
    "neutral": "neu",
    "neutral state": "neu",
    "happiness": "hap",
    "excited": "exc",
    "sadness": "sad",
    "anger": "ang",
    "frustration": "fru",
}
# As published, for the whole corpus. For six classes those are the counts of the feature files that work on dialogues
# shares (first DialogueRNN's, Majumder et al. 2019).
COUNTS = {
    4: {"": 5531, "neutral": 1708, "happy": 1636, "sad": 1084, "angry": 1103}
    | dict(zip(SESSIONS, (1085, 1023, 1151, 1031, 1241), strict=True)),
    6: {"": 7433, "Session1 to Session4": 5810, "Session5": 1623},
}
COUNTED_IN = {4: "as published", 6: "as in published feature files (the consensus lines alone give 53 fewer, 7380)"}

SPEAKERS = tuple(f"Ses0{number}{gender}" for number in range(1, 6) for gender in "FM")
_OF_SESSION = tuple(frozenset(SPEAKERS[2 * number : 2 * number + 2]) for number in range(5))
PROTOCOLS = {
    "leave_one_session_out": SpeakerFolds(_OF_SESSION, (*_OF_SESSION[1:], _OF_SESSION[0])),
    "leave_one_speaker_out": SpeakerFolds(
        tuple(frozenset({speaker}) for speaker in SPEAKERS),
        tuple(_OF_SESSION[number // 2] - {speaker} for number, speaker in enumerate(SPEAKERS)),
    ),
    "session_5_test": HeldOutSpeakers(_OF_SESSION[4]),
}


@dataclass(kw_only=True)
class Iemocap(Corpus):
    """IEMOCAP as its authors ship it; the root is the folder `IEMOCAP_full_release` or the one that holds it.

    An utterance without a consensus among the classes has no target for `emotion`, and keeps those of valence,
    activation and dominance. Where outside raters voted for any of the classes, their shares are `emotion_votes`: each
    rater has one vote, divided among the words they gave, and what is outside the classes is dropped.

    The sound of an utterance is a file of its own; its picture is half of a stretch of its dialogue's.

    Args:
        classes: 4 (excited counts as happy) or 6.
        improvised_only: leave the scripted dialogues out, whose lines recur across sessions.
    """

    name: ClassVar[str] = "iemocap"

    classes: int = 4
    improvised_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes not in CLASSES:
            raise UserError(f"expected dataset.classes in {sorted(CLASSES)}, got {self.classes!r} (dataset=iemocap)")

    @classmethod
    def write_fixture(cls, folder: Path) -> None:
        from emorec.datasets.fixtures.iemocap import write

        write(folder)

    def scan(self) -> Manifest:
        self.require_folder("Ask for the corpus on the page of IEMOCAP at USC.")
        release = self.folder / RELEASE if (self.folder / RELEASE).is_dir() else self.folder
        problems: list[Problem] = []
        utterances: list[Utterance] = []
        unparsed = 0
        for session in SESSIONS:
            for path in _evaluations(release / session):
                found, lines = self._dialogue(release / session, path, problems)
                utterances += found
                unparsed += lines
        tasks = _tasks(CLASSES[self.classes])
        if not utterances:
            detail = f"expected Session1/dialog/EmoEvaluation/*.txt here or under {RELEASE}/, found none"
            problems.append(Problem("missing", str(self.folder), detail))
        problems += [*check_utterances(utterances, tasks), *_range_problems(utterances)]
        absent = [session for session in SESSIONS if session not in {item.session for item in utterances}]
        problems += [] if absent else _count_problems(utterances, tasks["emotion"], self.classes)
        if self.improvised_only:
            utterances = [item for item in utterances if item.metadata["scenario"] == "improvised"]
        return Manifest(
            dataset=self.name,
            utterances=tuple(sorted(utterances, key=lambda item: item.id)),
            tasks=tasks,
            protocols=dict(PROTOCOLS),
            problems=tuple(problems),
            notes=tuple(_notes(utterances, absent, unparsed)),
        )

    def _dialogue(self, session: Path, evaluation: Path, problems: list[Problem]) -> tuple[list[Utterance], int]:
        """The utterances of a dialogue, and how many lines of its transcript are none."""
        dialogue = evaluation.stem
        transcript = session / "dialog" / "transcriptions" / evaluation.name
        texts, unparsed = read_transcripts(transcript) if transcript.is_file() else ({}, 0)
        picture = session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi"
        video = picture if picture.is_file() else None
        utterances = []
        turns = sorted(read_evaluation(evaluation, problems), key=lambda turn: (turn.start, turn.name))
        for place, turn in enumerate(turns):
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
                    video=video,
                    start=turn.start,
                    end=turn.end,
                    crop="left" if match[5] == match[3] else "right",
                    text=texts.get(turn.name),
                    targets=_targets(turn, CLASSES[self.classes]),
                    speaker=f"Ses0{match[2]}{match[5]}",
                    dialogue=dialogue,
                    turn=place,
                    session=session.name,
                    metadata={"scenario": SCENARIOS[match[4]], "gender": GENDERS[match[5]]},
                )
            )
        return utterances, unparsed


def _evaluations(session: Path) -> list[Path]:
    """The evaluation files of a session, without those in folders of single raters and without hidden ones."""
    folder = session / "dialog" / "EmoEvaluation"
    paths = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    return [path for path in paths if path.is_file() and not path.name.startswith(".")]


def _tasks(classes: Mapping[str, tuple[str, ...]]) -> dict[str, Task]:
    tasks = {
        "emotion": Task(name="emotion", labels=tuple(classes), monitor="uar" if len(classes) == 4 else "weighted_f1")
    }
    for name in DIMENSIONS:
        tasks[name] = Task(name=name, kind="regression", labels=(name,), monitor="ccc", direction="max")
    return tasks


def _targets(turn: Turn, classes: Mapping[str, tuple[str, ...]]) -> dict[str, Target]:
    targets: dict[str, Target] = dict(zip(DIMENSIONS, turn.dimensions, strict=True))
    for number, codes in enumerate(classes.values()):
        if turn.consensus in codes:
            targets["emotion"] = number
    shares = _vote_shares(turn.ratings, classes)
    if shares is not None:
        targets[f"emotion{VOTES}"] = shares
    return targets


def _vote_shares(ratings: list[tuple[str, ...]], classes: Mapping[str, tuple[str, ...]]) -> tuple[float, ...] | None:
    weights: dict[str, float] = defaultdict(float)  # by consensus code
    for words in ratings:
        for word in words:
            weights[CODE_OF_RATING.get(word, "")] += 1 / len(words)
    votes = [sum(weights[code] for code in codes) for codes in classes.values()]
    return tuple(vote / sum(votes) for vote in votes) if any(votes) else None


def _range_problems(utterances: list[Utterance]) -> Iterator[Problem]:
    """Means that no rater's 1 to 5 can give; they are kept, for the raters' tool let some through."""
    for item in utterances:
        for name in DIMENSIONS:
            value = item.targets[name]
            if isinstance(value, float) and not 1 <= value <= 5:
                yield Problem("range", item.id, f"expected {name} from 1 to 5, got {value}", fatal=False)


def _count_problems(utterances: list[Utterance], task: Task, classes: int) -> Iterator[Problem]:
    """Where the whole corpus has other counts than the published ones."""
    found: Counter[str] = Counter()
    for item in utterances:
        number = item.targets.get("emotion")
        if isinstance(number, int):
            session = str(item.session)
            found.update(("", task.labels[number], session))
            found["Session1 to Session4"] += session != "Session5"
    for name, count in COUNTS[classes].items():
        if found[name] != count:
            where = f"{classes} classes{name and f', {name}'}"
            detail = f"expected {count} utterances {COUNTED_IN[classes]}, found {found[name]}"
            yield Problem("count", where, detail, fatal=False)


def _notes(utterances: list[Utterance], absent: list[str], unparsed: int) -> Iterator[str]:
    if absent:
        yield f"absent sessions: {', '.join(absent)}"
    yield from media_notes(utterances)
    silent = sum(item.text is None for item in utterances)
    if silent:
        yield f"text: {len(utterances) - silent} of {len(utterances)} utterances have a transcript"
    if unparsed:
        yield f"transcripts: {unparsed} lines name no utterance with its times"
