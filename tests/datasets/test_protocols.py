"""Every protocol of every corpus splits the utterances and is as speaker-independent as it states."""

import importlib
from collections import Counter
from typing import Any

import pytest

from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.splits import HeldOutSpeakers, Protocol
from emorec.datasets.utterance import SPLITS, Utterance
from tests.datasets.conftest import WITH_FIXTURE, Roots, configured

RULES: dict[tuple[str, str], Protocol] = {
    (name, protocol): rule
    for name in WITH_FIXTURE
    for protocol, rule in importlib.import_module(f"emorec.datasets.{name}").PROTOCOLS.items()
}
FOLDS = [(*key, fold) for key, rule in RULES.items() for fold in (range(rule.folds) if rule.folds else [None])]
# Options that select other utterances of a corpus.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "ravdess": [{"channel": "song"}, {"channel": "both", "classes": 7}],
    "iemocap": [{"classes": 6}, {"improvised_only": True}],
}
VARIED_FOLDS = [(*key, changes) for key in FOLDS for changes in [{}, *VARIANTS.get(key[0], [])]]


def read(roots: Roots, name: str, **changes: Any) -> tuple[Corpus, Manifest, dict[str, tuple[Utterance, ...]]]:
    corpus = configured(name, roots(name), **changes)
    manifest = corpus.read()
    return corpus, manifest, corpus.split(manifest)


def speakers(utterances: tuple[Utterance, ...]) -> set[str | None]:
    return {item.speaker for item in utterances}


@pytest.mark.parametrize(("name", "protocol", "fold", "changes"), VARIED_FOLDS)
def test_every_utterance_of_the_task_is_in_exactly_one_split(
    small_corpus: Roots, name: str, protocol: str, fold: int | None, changes: dict[str, Any]
) -> None:
    corpus, manifest, splits = read(small_corpus, name, protocol=protocol, fold=fold, **changes)
    counts = Counter(item.id for split in SPLITS for item in splits[split])
    assert counts == Counter(item.id for item in manifest.utterances if corpus.task in item.targets)
    assert all(splits[split] for split in SPLITS)


@pytest.mark.parametrize(("name", "protocol", "fold", "changes"), VARIED_FOLDS)
def test_speaker_independent_protocols_do_not_share_speakers(
    small_corpus: Roots, name: str, protocol: str, fold: int | None, changes: dict[str, Any]
) -> None:
    rule = RULES[name, protocol]
    _, _, splits = read(small_corpus, name, protocol=protocol, fold=fold, **changes)
    train, val, test = (speakers(splits[split]) for split in SPLITS)
    if rule.separates_speakers:
        assert None not in train | val | test
        assert not test & (train | val)
        assert rule.validation_shares_speakers == isinstance(rule, HeldOutSpeakers)
        assert rule.validation_shares_speakers or not train & val
    else:
        assert protocol == "official"


@pytest.mark.parametrize(("name", "protocol"), [key for key, rule in RULES.items() if rule.folds])
def test_every_utterance_is_in_test_in_exactly_one_fold(small_corpus: Roots, name: str, protocol: str) -> None:
    corpus, manifest, _ = read(small_corpus, name, protocol=protocol, fold=0)
    tested = Counter(
        item.id
        for fold in range(RULES[name, protocol].folds)
        for item in read(small_corpus, name, protocol=protocol, fold=fold)[2]["test"]
    )
    assert tested == Counter(item.id for item in manifest.utterances if corpus.task in item.targets)


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_a_small_corpus_has_several_classes_in_every_split(small_corpus: Roots, name: str) -> None:
    corpus, manifest, splits = read(small_corpus, name)
    for split in SPLITS:
        assert len({item.targets[corpus.task] for item in splits[split]}) > 2, split
    assert [item for item in manifest.problems if item.fatal] == []


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_every_task_of_a_small_corpus_can_be_split(small_corpus: Roots, name: str) -> None:
    tasks = configured(name, small_corpus(name)).read().tasks
    for task in tasks:
        corpus, manifest, splits = read(small_corpus, name, task=task)
        assert corpus.chosen_task(manifest) == tasks[task]
        assert all(task in item.targets for split in SPLITS for item in splits[split])


def test_a_protocol_without_folds_separates_train_and_val_by_dialogue(small_corpus: Roots) -> None:
    _, _, splits = read(small_corpus, "iemocap", protocol="session_5_test", fold=None)
    assert speakers(splits["test"]) == {"Ses05F", "Ses05M"}
    assert {item.session for item in splits["train"] + splits["val"]} == {f"Session{number}" for number in range(1, 5)}
    assert not {item.dialogue for item in splits["train"]} & {item.dialogue for item in splits["val"]}


@pytest.mark.parametrize("fold", range(5))
def test_leave_one_session_out_validates_on_the_next_session(small_corpus: Roots, fold: int) -> None:
    _, _, splits = read(small_corpus, "iemocap", protocol="leave_one_session_out", fold=fold)
    assert {item.session for item in splits["test"]} == {f"Session{fold + 1}"}
    assert {item.session for item in splits["val"]} == {f"Session{(fold + 1) % 5 + 1}"}


@pytest.mark.parametrize("fold", range(10))
def test_leave_one_speaker_out_validates_on_the_other_speaker_of_the_session(small_corpus: Roots, fold: int) -> None:
    _, _, splits = read(small_corpus, "iemocap", protocol="leave_one_speaker_out", fold=fold)
    session = f"Ses0{fold // 2 + 1}"
    assert speakers(splits["test"]) == {f"{session}{'FM'[fold % 2]}"}
    assert speakers(splits["val"]) == {f"{session}{'MF'[fold % 2]}"}


def test_the_folds_of_crema_d_have_18_or_19_actors() -> None:
    rule = RULES["crema_d", "five_fold"]
    every = [str(number) for number in range(1001, 1092)]

    def split(actor: str, fold: int) -> str | None:
        return rule.split_of(Utterance(id=actor, dataset="crema_d", targets={}, speaker=actor), fold)

    tested = [[actor for actor in every if split(actor, fold) == "test"] for fold in range(5)]
    assert [len(actors) for actors in tested] == [19, 18, 18, 18, 18]
    assert tested[0][:3] == ["1001", "1006", "1011"]
    assert sorted(actor for actors in tested for actor in actors) == every
    for fold in range(5):
        assert [actor for actor in every if split(actor, fold) == "val"] == tested[(fold + 1) % 5]


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_every_corpus_has_random_folds_on_demand_that_keep_recordings_and_say_that_they_share_speakers(
    small_corpus: Roots, name: str
) -> None:
    assert "random" not in read(small_corpus, name)[1].protocols
    tested: Counter[str] = Counter()
    for fold in range(5):
        corpus, manifest, splits = read(small_corpus, name, protocol="random", fold=fold)
        rule = manifest.protocols["random"]
        assert (rule.folds, rule.separates_speakers, rule.shares_speakers) == (5, False, True)
        assert speakers(splits["train"]) & speakers(splits["test"]), name
        tested.update(item.id for item in splits["test"])
    assert tested == Counter(item.id for item in manifest.utterances if corpus.task in item.targets)
