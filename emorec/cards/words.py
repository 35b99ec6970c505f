"""Which words a decision comes from: the text is encoded again without each of them (Li et al. 2016, arXiv 1612.08220).

This takes nothing of the encoder but its output, so that it is the same for all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emorec.datasets.utterance import Utterance
from emorec.encoders.precomputed import Precomputed
from emorec.inference.member import Member
from emorec.runs.logs import quiet

LONGEST = 60  # spans of words that are left out one at a time; a longer text has longer ones


@dataclass(frozen=True)
class Word:
    """A word, or some that follow each other."""

    text: str  # as it is written
    weight: float | None  # what the output of the class loses without it; `None` where nothing is left without it


def why_not(member: Member) -> str | None:
    """Why a run's words cannot be left out; `None` where they can."""
    if "text" not in member.encoders:
        return "it reads no text"
    if isinstance(member.encoders["text"].stored(), Precomputed):
        return "the features of its texts were computed elsewhere"
    if member.is_by_speaker:
        return "its clips are compared with the others of their speaker"
    return None


def weighted_words(
    member: Member, clip: Utterance, corpus: Sequence[Utterance], number: int, folder: Path
) -> list[Word]:
    """The words of a clip with what each adds to class `number` (0 of a regression).

    Args:
        member: the run.
        clip: with a text.
        corpus: where the other turns of its dialogue are, for a run that reads these.
        number: of the class.
        folder: takes the features.
    """
    words = (clip.text or "").split()
    size = math.ceil(len(words) / LONGEST)
    spans = [(start, min(start + size, len(words))) for start in range(0, len(words), max(1, size))]
    texts = [clip.text, *(" ".join([*words[:start], *words[end:]]) for start, end in spans)]
    turns = _turns(member, clip, corpus)
    copies = [
        replace(
            turn,
            id=f"{turn.id}#{copy}",
            dialogue=None if turn.dialogue is None else f"{turn.dialogue}#{copy}",
            text=text if turn.id == clip.id else turn.text,
        )
        for copy, text in enumerate(texts)
        for turn in turns
        if text
    ]
    with quiet():
        values = member.outputs(copies, folder).values.numpy()[:, number]
    of_copy = {item.id: float(value) for item, value in zip(copies, values, strict=True)}
    whole = of_copy[f"{clip.id}#0"]
    without = [of_copy.get(f"{clip.id}#{copy}", math.nan) for copy in range(1, len(texts))]
    return [
        Word(" ".join(words[start:end]), None if np.isnan(value) else whole - value)
        for (start, end), value in zip(spans, without, strict=True)
    ]


def _turns(member: Member, clip: Utterance, corpus: Sequence[Utterance]) -> list[Utterance]:
    """The clip, and the other turns of its dialogue where they matter, in order."""
    if not member.reads_dialogues or clip.dialogue is None:
        return [clip]
    own = [item for item in corpus if item.dialogue == clip.dialogue]
    return sorted(own, key=lambda item: -1 if item.turn is None else item.turn)
