"""Splits have every utterance once, are the published ones, and separate speakers."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from emorec.datasets.manifest import Manifest, Problem
from emorec.datasets.ravdess import EMOTIONS, PROTOCOLS, TASKS, Ravdess
from emorec.datasets.splits import OfficialSplit, assign_splits, speaker_overlap
from emorec.datasets.utterance import SPLITS, Utterance
from emorec.errors import UserError
from tests.datasets.conftest import configured

# Test actors of Luna-Jiménez et al. (2021) and their validation actors, test actors of EmoBox (2024): fold 0 first.
FIVE_FOLD_TEST = [{2, 5, 14, 15, 16}, {3, 6, 7, 13, 18}, {10, 11, 12, 19, 20}, {8, 17, 21, 23, 24}, {1, 4, 9, 22}]
FIVE_FOLD_VAL = [{3, 6}, {10, 11}, {8, 17}, {1, 14}, {2, 5}]
SIX_FOLD_TEST = [{1, 11, 20, 21}, {4, 10, 12, 14}, {8, 9, 19, 23}, {3, 5, 7, 24}, {2, 15, 16, 18}, {6, 13, 17, 22}]
PUBLISHED = {"five_fold": FIVE_FOLD_TEST, "six_fold": SIX_FOLD_TEST}
FOLDS = [(name, fold) for name, folds in PUBLISHED.items() for fold in range(len(folds))]

Splits = dict[str, tuple[Utterance, ...]]


def utterance(name: str, *, emotion: int = 0, speaker: str | None = None, split: str | None = None) -> Utterance:
    return Utterance(
        id=name, dataset="made_up", text="words", targets={"emotion": emotion}, speaker=speaker, split=split
    )


@pytest.fixture(scope="module")
def corpus() -> tuple[Utterance, ...]:
    """24 actors as in RAVDESS, with 4 clips of neutral and 8 of each other emotion."""
    return tuple(
        utterance(f"{emotion:02d}-{clip:02d}-{actor:02d}", emotion=emotion, speaker=f"{actor:02d}")
        for actor in range(1, 25)
        for emotion in range(len(EMOTIONS))
        for clip in range(4 if emotion == 0 else 8)
    )


def actors(utterances: tuple[Utterance, ...]) -> set[int]:
    return {int(item.speaker or 0) for item in utterances}


@pytest.mark.parametrize(("name", "fold"), FOLDS)
def test_every_utterance_is_in_exactly_one_split(corpus: tuple[Utterance, ...], name: str, fold: int) -> None:
    splits = assign_splits(corpus, PROTOCOLS[name], fold=fold, task="emotion")
    assert tuple(splits) == SPLITS
    counts = Counter(item.id for utterances in splits.values() for item in utterances)
    assert counts == Counter(item.id for item in corpus)


@pytest.mark.parametrize(("name", "fold"), FOLDS)
def test_the_test_actors_are_the_published_ones_and_splits_share_no_actor(
    corpus: tuple[Utterance, ...], name: str, fold: int
) -> None:
    splits = assign_splits(corpus, PROTOCOLS[name], fold=fold, task="emotion")
    train, val, test = (actors(splits[split]) for split in SPLITS)
    assert test == PUBLISHED[name][fold]
    if name == "five_fold":
        assert val == FIVE_FOLD_VAL[fold]
    assert not train & val
    assert not train & test
    assert not val & test
    assert train | val | test == set(range(1, 25))
    assert speaker_overlap(splits) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_actor_is_in_test_in_exactly_one_fold(corpus: tuple[Utterance, ...], name: str) -> None:
    assert PROTOCOLS[name].folds == len(PUBLISHED[name])
    tested = Counter(
        item.id
        for fold in range(PROTOCOLS[name].folds)
        for item in assign_splits(corpus, PROTOCOLS[name], fold=fold, task="emotion")["test"]
    )
    assert tested == Counter(item.id for item in corpus)


def test_utterances_keep_their_order(corpus: tuple[Utterance, ...]) -> None:
    splits = assign_splits(corpus, PROTOCOLS["five_fold"], fold=0, task="emotion")
    index_of = {item.id: index for index, item in enumerate(corpus)}
    for utterances in splits.values():
        indices = [index_of[item.id] for item in utterances]
        assert indices == sorted(indices)


@pytest.mark.parametrize("fold", [5, -1, None])
def test_the_error_for_an_unknown_fold_lists_the_folds(corpus: tuple[Utterance, ...], fold: int) -> None:
    with pytest.raises(UserError, match=r"expected dataset\.fold from 0 to 4, got .* \(dataset=made_up\)") as caught:
        assign_splits(corpus, PROTOCOLS["five_fold"], fold=fold, task="emotion", where="dataset=made_up")
    assert repr(fold) in str(caught.value)


def test_a_fold_is_an_error_for_a_protocol_without_folds() -> None:
    utterances = [utterance(split, split=split) for split in SPLITS]
    with pytest.raises(UserError, match=r"expected dataset\.fold=null.*got 0"):
        assign_splits(utterances, OfficialSplit(), fold=0, task="emotion")


def test_the_official_split_is_that_of_each_utterance() -> None:
    utterances = [utterance(f"{split}_{number}", split=split) for split in SPLITS for number in range(3)]
    splits = assign_splits([*utterances, utterance("unused")], OfficialSplit(), fold=None, task="emotion")
    assert {name: [item.id for item in items] for name, items in splits.items()} == {
        split: [f"{split}_{number}" for number in range(3)] for split in SPLITS
    }


def test_utterances_without_a_target_for_the_task_are_left_out() -> None:
    utterances = [utterance(split, split=split) for split in SPLITS]
    other = Utterance(id="other", dataset="made_up", targets={"sentiment": 0}, split="train")
    splits = assign_splits([*utterances, other], OfficialSplit(), fold=None, task="emotion")
    assert [item.id for item in splits["train"]] == ["train"]


@pytest.mark.parametrize("limit", [None, 6])
def test_without_a_task_no_target_is_read(limit: int | None) -> None:
    names = [f"{split}_{number}" for split in SPLITS for number in range(4)]
    items = [utterance(name, emotion=index % 2, split=name[:-2]) for index, name in enumerate(names)]
    unlabelled = [replace(item, targets={}) for item in items]
    found = [assign_splits(each, OfficialSplit(), fold=None, task=None, limit=limit) for each in (items, unlabelled)]
    kept = [{split: [item.id for item in each] for split, each in splits.items()} for splits in found]
    assert kept[0] == kept[1]
    assert [len(each) for each in kept[0].values()] == [4 if limit is None else 2] * 3


def test_the_error_for_empty_splits_names_each_of_them() -> None:
    with pytest.raises(UserError) as caught:
        assign_splits([utterance("a", split="train")], OfficialSplit(), fold=None, task="emotion", where="made_up")
    assert "the split of made_up" in str(caught.value)
    assert "no utterances in val" in str(caught.value)
    assert "no utterances in test" in str(caught.value)
    assert "no utterances in train" not in str(caught.value)


def test_a_shared_speaker_is_an_error_if_the_official_split_separates_speakers() -> None:
    utterances = [utterance(split, split=split, speaker="Ross") for split in SPLITS]
    assert len(assign_splits(utterances, OfficialSplit(), fold=None, task="emotion")["test"]) == 1
    with pytest.raises(UserError, match="speaker Ross is in test and train and val"):
        assign_splits(utterances, OfficialSplit(separates_speakers=True), fold=None, task="emotion")


def limited(corpus: tuple[Utterance, ...], limit: int) -> Splits:
    return assign_splits(corpus, PROTOCOLS["five_fold"], fold=0, task="emotion", limit=limit)


@pytest.mark.parametrize("limit", [24, 100, 720])
def test_a_limit_keeps_each_class_in_each_split(corpus: tuple[Utterance, ...], limit: int) -> None:
    splits = limited(corpus, limit)
    assert sum(map(len, splits.values())) == limit
    for utterances in splits.values():
        assert {item.targets["emotion"] for item in utterances} == set(range(len(EMOTIONS)))


def test_a_limit_keeps_the_shares_of_splits_and_classes(corpus: tuple[Utterance, ...]) -> None:
    whole = assign_splits(corpus, PROTOCOLS["five_fold"], fold=0, task="emotion")
    half = limited(corpus, len(corpus) // 2)
    for name in SPLITS:
        before = Counter(item.targets["emotion"] for item in whole[name])
        after = Counter(item.targets["emotion"] for item in half[name])
        for emotion, count in before.items():
            assert abs(after[emotion] - count / 2) <= 1, (name, emotion)


def test_a_limit_does_not_depend_on_the_order_of_the_utterances(corpus: tuple[Utterance, ...]) -> None:
    shuffled = list(corpus)
    random.Random(0).shuffle(shuffled)
    kept = limited(corpus, 100)
    again = limited(tuple(shuffled), 100)
    assert {name: {item.id for item in items} for name, items in kept.items()} == {
        name: {item.id for item in items} for name, items in again.items()
    }


def test_a_limit_larger_than_the_corpus_keeps_everything(corpus: tuple[Utterance, ...]) -> None:
    assert sum(map(len, limited(corpus, 10 * len(corpus)).values())) == len(corpus)


@pytest.mark.parametrize("limit", [0, True, 2.5])
def test_a_limit_that_is_not_a_positive_whole_number_is_an_error(tmp_path: Path, limit: object) -> None:
    with pytest.raises(UserError, match=rf"dataset\.limit: expected a whole number of at least 1 or null, got {limit}"):
        configured("ravdess", tmp_path, limit=limit)


@pytest.mark.parametrize("fold", ["0", -1, True])
def test_a_fold_that_is_not_a_whole_number_is_an_error(tmp_path: Path, fold: object) -> None:
    with pytest.raises(UserError, match=rf"dataset\.fold: expected a whole number of at least 0 or null, got {fold!r}"):
        configured("ravdess", tmp_path, fold=fold)


def test_a_limit_that_leaves_a_split_empty_is_an_error(corpus: tuple[Utterance, ...]) -> None:
    with pytest.raises(UserError, match="no utterances in"):
        limited(corpus, 2)


def manifest_of(corpus: tuple[Utterance, ...], notes: tuple[str, ...] = ()) -> Manifest:
    return Manifest(dataset="ravdess", utterances=corpus, tasks=TASKS, protocols=dict(PROTOCOLS), notes=notes)


def test_an_unknown_protocol_lists_the_choices(corpus: tuple[Utterance, ...], tmp_path: Path) -> None:
    chosen = Ravdess(root=str(tmp_path), task="emotion", protocol="seven_fold", fold=0)
    with pytest.raises(UserError, match="protocol") as caught:
        chosen.split(manifest_of(corpus))
    assert "five_fold" in str(caught.value)
    assert "six_fold" in str(caught.value)
    assert "'seven_fold'" in str(caught.value)


def test_an_unknown_task_lists_the_choices(corpus: tuple[Utterance, ...], tmp_path: Path) -> None:
    chosen = Ravdess(root=str(tmp_path), task="valence", protocol="five_fold", fold=0)
    with pytest.raises(UserError, match=r"dataset\.task .*'emotion'.*'valence'"):
        chosen.split(manifest_of(corpus))


def test_the_error_for_an_empty_fold_names_the_absent_actors(corpus: tuple[Utterance, ...], tmp_path: Path) -> None:
    partial = tuple(item for item in corpus if item.speaker not in ("01", "04", "09", "22"))
    chosen = Ravdess(root=str(tmp_path), task="emotion", protocol="five_fold", fold=4)
    with pytest.raises(UserError, match="no utterances in test") as caught:
        chosen.split(manifest_of(partial, ("absent actors: 01, 04, 09, 22",)))
    assert "absent actors: 01, 04, 09, 22" in str(caught.value)


def test_a_command_says_in_one_line_what_the_check_says_in_full() -> None:
    problems = tuple(Problem("count", f"a\n{number}", "expected 2 clips, found 1", fatal=False) for number in range(12))
    manifest = manifest_of((), ("absent sessions: Session5",))
    assert manifest.remarks == "absent sessions: Session5"
    many = replace(manifest, problems=problems)
    assert many.remarks == "absent sessions: Session5 (12 more; emorec data check lists all in full)"
    assert "\n" not in replace(many, notes=()).remarks
    assert len(manifest_of((), ("x" * 500, "y")).remarks) < 200
    assert manifest_of(()).remarks == ""
