"""Which clips are read again for a card, and which words are left out."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from emorec.cards.clips import chosen_clips
from emorec.cards.words import weighted_words
from emorec.config.cards import CardConfig
from emorec.datasets.utterance import Task, Utterance

TASK = Task(name="emotion", labels=("calm", "angry"))


def utterance(number: int, **fields: Any) -> Utterance:
    own = {"targets": {"emotion": int(number % 5 == 0)}, "speaker": f"s{number // 10}"}
    return Utterance(id=f"u{number:02}", dataset="custom", **(own | fields))


def evaluation_of(scored: list[Utterance], corpus: list[Utterance] | None = None) -> Any:
    data = SimpleNamespace(splits={"test": tuple(scored)}, task=TASK)
    data.manifest = SimpleNamespace(utterances=tuple(corpus or scored))
    return SimpleNamespace(data=data, loaded_split="test")


def member_of(*, by_speaker: bool = False, by_dialogue: bool = False) -> Any:
    return SimpleNamespace(is_by_speaker=by_speaker, reads_dialogues=by_dialogue)


def test_clips_are_drawn_in_equal_shares_of_the_classes() -> None:
    evaluation = evaluation_of([utterance(number) for number in range(50)])
    clips = chosen_clips(evaluation, member_of(), CardConfig(limit=16))
    assert (clips.scored, clips.total) == (16, 50)
    assert Counter(item.targets["emotion"] for item in clips.clips) == {0: 8, 1: 8}
    assert clips == chosen_clips(evaluation, member_of(), CardConfig(limit=16))
    assert clips.counted != chosen_clips(evaluation, member_of(), CardConfig(limit=16, seed=1)).counted
    assert chosen_clips(evaluation, member_of(), CardConfig(limit=30)).scored == 30  # 10 angry ones, and 20 others
    assert chosen_clips(evaluation, member_of(), CardConfig(limit=None)).scored == 50


@pytest.mark.parametrize(("limit", "count"), [(25, 20), (5, 10), (50, 50)])
def test_speakers_are_whole_where_they_are_compared(limit: int, count: int) -> None:
    evaluation = evaluation_of([utterance(number) for number in range(50)])
    clips = chosen_clips(evaluation, member_of(by_speaker=True), CardConfig(limit=limit))
    assert set(Counter(item.speaker for item in clips.clips).values()) == {10}
    assert clips.scored == count


def test_dialogues_are_whole_and_in_order_and_turns_without_a_target_do_not_count() -> None:
    corpus = [utterance(number, dialogue=f"d{number % 4}", turn=number, targets={}) for number in range(20)]
    scored = [utterance(number, dialogue=f"d{number % 4}", turn=number) for number in range(20) if number % 3]
    clips = chosen_clips(evaluation_of(scored, corpus), member_of(by_dialogue=True), CardConfig(limit=11))
    assert Counter(item.dialogue for item in clips.clips).most_common()[0][1] == 5
    assert len(clips.clips) == 10
    turns = [item.turn for item in clips.clips]
    assert turns[:5] == sorted(turns[:5])  # type: ignore[type-var]
    assert clips.counted == {item.id for item in clips.clips} & {item.id for item in scored}


class CountsSad:
    """A run whose output is how often it reads "sad" in a dialogue so far; nothing where there is no text."""

    def __init__(self, *, reads_dialogues: bool) -> None:
        self.reads_dialogues = reads_dialogues

    def outputs(self, clips: list[Utterance], folder: Path) -> Any:
        texts = [
            " ".join(
                own.text or ""
                for own in clips
                if own is clip or (self.reads_dialogues and own.dialogue == clip.dialogue)
            )
            for clip in clips
        ]
        counts = [text.count("sad") if clip.text else np.nan for clip, text in zip(clips, texts, strict=True)]
        return SimpleNamespace(values=torch.tensor([[0.0, float(count)] for count in counts]))


def test_a_word_weighs_what_the_output_loses_without_it(tmp_path: Path) -> None:
    member: Any = CountsSad(reads_dialogues=False)
    words = weighted_words(member, utterance(0, text="so sad and so sad"), [], 1, tmp_path)
    assert [(word.text, word.weight) for word in words] == [("so", 0), ("sad", 1), ("and", 0), ("so", 0), ("sad", 1)]
    (alone,) = weighted_words(member, utterance(0, text="sad"), [], 1, tmp_path)
    assert (alone.text, alone.weight) == ("sad", None)  # nothing is left without it


def test_long_texts_are_cut_into_spans(tmp_path: Path) -> None:
    member: Any = CountsSad(reads_dialogues=False)
    words = weighted_words(member, utterance(0, text=" ".join(["a"] * 100 + ["sad"])), [], 1, tmp_path)
    assert len(words) == 51
    assert " ".join(word.text for word in words).split() == ["a"] * 100 + ["sad"]
    assert words[-1].weight == 1


def test_the_other_turns_of_a_dialogue_stay_as_they_are(tmp_path: Path) -> None:
    member: Any = CountsSad(reads_dialogues=True)
    turns = [
        utterance(number, dialogue="d", turn=number, text=text) for number, text in enumerate(["sad", "oh sad", "x"])
    ]
    words = weighted_words(member, turns[1], [*turns, utterance(9, dialogue="e", text="sad")], 1, tmp_path)
    assert [(word.text, word.weight) for word in words] == [("oh", 0), ("sad", 1)]
