"""EmoDB, the Berlin Database of Emotional Speech: 10 actors, 10 German sentences, 7 emotions.

Burkhardt et al. (2005), Interspeech, "A Database of German Emotional Speech", doi 10.21437/Interspeech.2005-446.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emorec.datasets.manifest import Corpus, Manifest, Part, Problem, count_problems
from emorec.datasets.splits import SpeakerFolds
from emorec.datasets.utterance import Task, Utterance

# By the first letter of the German word: Wut, Langeweile, Ekel, Angst, Freude, neutral, Trauer.
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happy",
    "N": "neutral",
    "T": "sadness",
}
COUNTS = {"anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happy": 71, "neutral": 79, "sadness": 62}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
ACTORS = {  # {actor: (gender, age)}
    "03": ("male", 31),
    "08": ("female", 34),
    "09": ("female", 21),
    "10": ("male", 32),
    "11": ("male", 26),
    "12": ("male", 30),
    "13": ("female", 32),
    "14": ("female", 35),
    "15": ("male", 25),
    "16": ("female", 31),
}
# actor, sentence, emotion, version of several
FILE_NAME = re.compile(rf"({'|'.join(ACTORS)})({'|'.join(SENTENCES)})([{''.join(EMOTIONS)}])([a-z]?)")

TASKS = {"emotion": Task(name="emotion", labels=tuple(EMOTIONS.values()), monitor="uar")}
# The authors published no folds: each actor is in test once, and the next one is in val.
_ACTORS = tuple(frozenset({actor}) for actor in ACTORS)
PROTOCOLS = {"leave_one_speaker_out": SpeakerFolds(_ACTORS, (*_ACTORS[1:], _ACTORS[0]))}


@dataclass(kw_only=True)
class EmoDb(Corpus):
    """EmoDB as published: `wav/03a01Fa.wav`, in any folder under the root. FLAC files are accepted too."""

    name: ClassVar[str] = "emodb"
    origin: ClassVar[str] = "emorec data download dataset=emodb gets it from Zenodo record 7447302."
    parts: ClassVar[Mapping[str, Part]] = {"audio": Part("emodb.zip")}

    def scan(self) -> Manifest:
        self.require_folder()
        problems: list[Problem] = []
        sounds: dict[str, Path] = {}
        for path in self.files():
            if path.suffix.lower() not in (".wav", ".flac") or path.name.startswith("."):
                continue
            if FILE_NAME.fullmatch(path.stem) is None:
                detail = "expected a name such as 03a01Fa with codes of the corpus; left out"
                problems.append(Problem("name", str(path), detail, fatal=False))
            elif path.stem in sounds:
                problems.append(Problem("duplicate", path.stem, f"found both {sounds[path.stem]} and {path}"))
            else:
                sounds[path.stem] = path
        utterances = [_utterance(name, path) for name, path in sounds.items()]
        if not utterances:
            problems.append(Problem("missing", str(self.folder), "expected wav/03a01Fa.wav and others, found none"))
        if len(utterances) >= sum(COUNTS.values()):
            labels = [TASKS["emotion"].labels[int(item.targets["emotion"])] for item in utterances]  # type: ignore[arg-type]
            problems += count_problems(
                (self.name, f"utterances of {label} as published", count, labels.count(label))
                for label, count in COUNTS.items()
            )
        actors = {item.speaker for item in utterances}
        notes = [f"{len(actors)} of {len(ACTORS)} actors"] if len(actors) < len(ACTORS) else []
        return self.build_manifest(utterances, TASKS, PROTOCOLS, problems, notes)


def _utterance(name: str, sound: Path) -> Utterance:
    match = FILE_NAME.fullmatch(name)
    assert match is not None
    actor, sentence, emotion, version = match.groups()
    gender, age = ACTORS[actor]
    return Utterance(
        id=name,
        dataset=EmoDb.name,
        audio=sound,
        text=SENTENCES[sentence],
        targets={"emotion": tuple(EMOTIONS).index(emotion)},
        speaker=actor,
        metadata={"sentence": sentence, "version": version, "gender": gender, "age": age},
    )
