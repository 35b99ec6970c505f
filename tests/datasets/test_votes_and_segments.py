"""Raters' votes are kept beside the targets of tasks, and audio that is already cut is not cut again."""

from dataclasses import replace

import pytest

from emorec.datasets.manifest import Manifest, check_utterances
from emorec.datasets.utterance import Target, Task, Utterance
from emorec.storage.digests import digest_of

TASKS = {
    "emotion": Task(name="emotion", labels=("sad", "happy")),
    "valence": Task(name="valence", kind="regression", labels=("valence",)),
}


def utterance(**targets: Target) -> Utterance:
    return Utterance(id="one", dataset="made_up", text="words", start=1.0, end=2.5, targets=targets)


@pytest.mark.parametrize("votes", [(1, 0), (0.5, 0.5), (1 / 3, 2 / 3), (0.1 + 0.2, 0.7)])
def test_votes_that_sum_to_one_are_accepted(votes: tuple[float, ...]) -> None:
    assert check_utterances([utterance(emotion=0, emotion_votes=votes, valence=2.5)], TASKS) == []


@pytest.mark.parametrize("votes", [(1.0,), (0.5, 0.25, 0.25), (0.5, 0.6), (-0.5, 1.5), (), 1, 0.5, (float("nan"), 1)])
def test_votes_that_are_not_shares_of_the_classes_are_fatal(votes: Target) -> None:
    (problem,) = check_utterances([utterance(emotion_votes=votes)], TASKS)
    assert (problem.kind, problem.where, problem.fatal) == ("votes", "one", True)
    assert "expected 2 shares that sum to 1 as emotion_votes" in problem.detail


@pytest.mark.parametrize("name", ["arousal", "arousal_votes", "valence_votes", "votes", "emotion_vote"])
def test_a_target_without_a_task_is_fatal(name: str) -> None:
    (problem,) = check_utterances([utterance(**{name: (0.5, 0.5)})], TASKS)
    assert (problem.kind, problem.fatal) == ("target", True)
    assert repr(name) in problem.detail


def test_audio_that_is_cut_has_no_segment_but_its_video_has() -> None:
    item = utterance(emotion=0)
    assert item.segment("audio") == item.segment("video") == (1.0, 2.5)
    cut = replace(item, audio_is_cut=True)
    assert cut.segment("audio") == (None, None)
    assert cut.segment("video") == (1.0, 2.5)


def digest(item: Utterance) -> str:
    return Manifest(dataset="made_up", utterances=(item,), tasks={}, protocols={}).digest


def test_audio_is_cut_counts_in_the_digest_only_if_true() -> None:
    item = utterance(emotion=0)
    without = {name: value for name, value in vars(item).items() if name != "audio_is_cut"}
    row = {**without, "audio": False, "video": False}
    assert digest(item) == digest_of({"dataset": "made_up", "tasks": {}, "utterances": [row]})
    assert digest(replace(item, audio_is_cut=True)) != digest(item)
