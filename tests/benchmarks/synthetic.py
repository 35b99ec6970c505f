"""A corpus and encoders of random numbers, of any size, that go through emorec's own path like any other."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.splits import OfficialSplit
from emorec.datasets.utterance import Task, Utterance
from emorec.encoders.crnn import Crnn
from emorec.encoders.encoder import Encoder, StoredType, Training, UtteranceEncoder
from emorec.media.source import Source

CLASSES = tuple(f"class{number}" for number in range(7))
TASKS = {"emotion": Task(name="emotion", labels=CLASSES)}


@dataclass(kw_only=True)
class Synthetic(Corpus):
    """Utterances with a text each, and with a small file for sound and one for picture where `files` is true.

    With `longest_dialogue` they are the turns of dialogues of two speakers, of 1 to that many turns in turn.
    """

    name: ClassVar[str] = "synthetic"

    train: int = 9989
    val: int = 1109
    test: int = 2610
    files: bool = False
    longest_dialogue: int = 0  # turns of the longest; 0 for utterances without any dialogue

    def scan(self) -> Manifest:
        utterances = []
        for split, count in (("train", self.train), ("val", self.val), ("test", self.test)):
            turns = iter(_turns(self.longest_dialogue, count))
            for number in range(count):
                name = f"{split}{number:06d}"
                dialogue, turn = next(turns)
                folder = self.folder / name[:-3]
                utterances.append(
                    Utterance(
                        id=name,
                        dataset=self.name,
                        text=f"this is {name}",
                        audio=folder / f"{name}.wav" if self.files else None,
                        video=folder / f"{name}.mp4" if self.files else None,
                        targets={"emotion": hashlib.sha256(name.encode()).digest()[0] % len(CLASSES)},
                        split=split,
                        dialogue=None if dialogue is None else f"{split}{dialogue}",
                        turn=turn,
                        speaker=None if turn is None else f"{split}{dialogue}-{turn % 2}",
                    )
                )
        return Manifest(
            dataset=self.name, utterances=tuple(utterances), tasks=TASKS, protocols={"official": OfficialSplit()}
        )

    def make_files(self) -> None:
        """Writes the files."""
        for utterance in self.scan().utterances:
            for path in (utterance.audio, utterance.video):
                assert path is not None
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(path.name.encode())


def _turns(longest: int, count: int) -> Iterator[tuple[int | None, int | None]]:
    """The dialogue and the turn of each of some utterances."""
    if longest == 0:
        yield from [(None, None)] * count
    for dialogue in range(count if longest else 0):
        for turn in range(1 + dialogue % longest):
            yield dialogue, turn


class RandomVectors(UtteranceEncoder):
    """Random frames that depend on the text or the file's name: shortest to longest frames of `dim` numbers."""

    version: ClassVar[int] = 1
    modality: ClassVar[str] = "text"

    def __init__(
        self,
        *,
        dim: int = 768,
        shortest: int = 1,
        longest: int = 1,
        training: Training = "frozen",
        dtype: StoredType = "float32",
    ) -> None:
        super().__init__(training=training, dtype=dtype)
        self._dim, self.shortest, self.longest = dim, shortest, longest

    @property
    def dim(self) -> int:
        return self._dim

    def settings(self) -> dict[str, Any]:
        return {"processor": {"dim": self._dim, "shortest": self.shortest, "longest": self.longest}}

    def features(self, source: Source) -> NDArray[np.float32]:
        name = source.text or Path(source.path or "").name
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
        frames = int(generator.integers(self.shortest, self.longest + 1))
        return generator.standard_normal((frames, self._dim), dtype=np.float32)


class RandomSounds(RandomVectors):
    """The same for the audio modality."""

    modality: ClassVar[str] = "audio"


class RandomPictures(RandomVectors):
    """The same for the video modality."""

    modality: ClassVar[str] = "video"


class RandomCrnn(Crnn):
    """A CRNN on random frames instead of log mel bands: (300, 64), three seconds."""

    @cached_property
    def below(self) -> Encoder:
        return RandomSounds(dim=self.bands, shortest=300, longest=300, dtype="float16")
