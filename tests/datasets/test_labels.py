"""Label maps give corpora with different labels the same classes."""

from collections import Counter
from pathlib import Path

import pytest

from emorec.datasets.combined import Combined
from emorec.datasets.custom import Custom
from emorec.datasets.labels import relabel
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError

LABELS = ("neutral", "calm", "happy", "sad")
FOUR = {"neutral": ["neutral", "calm"], "happy": ["happy", "joy"]}


def corpus(name: str = "one", labels: tuple[str, ...] = LABELS) -> Manifest:
    utterances = tuple(
        Utterance(
            id=label, dataset=name, text="Hi.", targets={"emotion": number, "emotion_votes": votes(number, len(labels))}
        )
        for number, label in enumerate(labels)
    )
    return Manifest(
        dataset=name, utterances=utterances, tasks={"emotion": Task(name="emotion", labels=labels)}, protocols={}
    )


def votes(first: int, classes: int) -> tuple[float, ...]:
    shares = [0.5 if number == first else 0.0 for number in range(classes)]
    shares[-1] += 0.5
    return tuple(shares)


def test_classes_are_merged_and_others_lose_their_target() -> None:
    mapped = relabel(corpus(), "emotion", FOUR)
    assert mapped.tasks["emotion"].labels == ("neutral", "happy")
    assert [item.targets.get("emotion") for item in mapped.utterances] == [0, 0, 1, None]


def test_votes_follow_their_classes() -> None:
    mapped = relabel(corpus(), "emotion", FOUR)
    assert [item.targets.get("emotion_votes") for item in mapped.utterances] == [(1, 0), (1, 0), (0, 1), None]


def test_two_corpora_get_the_same_classes() -> None:
    other = relabel(corpus("two", ("joy", "neutral")), "emotion", FOUR)
    assert [item.targets["emotion"] for item in other.utterances] == [1, 0]


def test_a_label_map_changes_the_digest() -> None:
    assert relabel(corpus(), "emotion", FOUR).digest != corpus().digest


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": ["happy"], "b": ["happy"]}, "'happy' is mapped to both 'a' and 'b'"),
        ({"a": ["bored"]}, "expected some of"),
    ],
)
def test_an_invalid_label_map_is_an_error(labels: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        relabel(corpus(), "emotion", labels)


def test_a_label_map_for_a_regression_is_an_error() -> None:
    task = Task(name="valence", kind="regression", labels=("valence",))
    manifest = Manifest(dataset="one", utterances=(), tasks={"valence": task}, protocols={})
    with pytest.raises(UserError, match="which is regression"):
        relabel(manifest, "valence", FOUR)


# Combined corpora


def tables(folder: Path) -> dict[str, Custom]:
    corpora = {}
    for name, labels in (("one", ("happy", "sad")), ("two", ("joy", "sad"))):
        lines = [f"u{n},Hi.,{labels[n % 2]},s{n % 6}" for n in range(24)]
        path = folder / f"{name}.csv"
        path.write_text("\n".join(["id,text,label,speaker", *lines]))
        corpora[name] = Custom(root=".", table=str(path), task="emotion", protocol="group_k_fold", fold=1)
    return corpora


def test_combined_corpora_have_the_union_of_their_labels(tmp_path: Path) -> None:
    combined = Combined(corpora=tables(tmp_path))
    manifest = combined.read()
    assert manifest.dataset == "one+two"
    assert manifest.tasks["emotion"].labels == ("happy", "sad", "joy")
    assert len(manifest.utterances) == 48
    assert {item.id.split("/")[0] for item in manifest.utterances} == {"one", "two"}
    assert len(manifest.speakers) == 12
    assert Counter(item.targets["emotion"] for item in manifest.utterances) == {0: 12, 1: 24, 2: 12}


def test_each_corpus_keeps_its_own_split(tmp_path: Path) -> None:
    corpora = tables(tmp_path)
    combined = Combined(corpora=corpora)
    splits = combined.split(combined.read())
    for name, part in corpora.items():
        for split, items in part.split(part.read()).items():
            own = {item.id.removeprefix(f"{name}/") for item in splits[split] if item.id.startswith(f"{name}/")}
            assert own == {item.id for item in items}


def test_spellings_of_a_label_are_one_class_in_maps_and_unions(tmp_path: Path) -> None:
    mapped = relabel(corpus("two", ("Joy", "NEUTRAL ")), "emotion", FOUR)
    assert [item.targets["emotion"] for item in mapped.utterances] == [1, 0]
    corpora = tables(tmp_path)
    table = tmp_path / "two.csv"
    table.write_text(table.read_text().replace("sad", "Sad"))
    manifest = Combined(corpora=corpora).read()
    assert manifest.tasks["emotion"].labels == ("happy", "sad", "joy")
    assert {item.targets["emotion"] for item in manifest.utterances if item.id == "two/u1"} == {1}


def test_a_label_map_merges_the_labels_of_combined_corpora(tmp_path: Path) -> None:
    manifest = relabel(
        Combined(corpora=tables(tmp_path)).read(), "emotion", {"happy": ["happy", "joy"], "sad": ["sad"]}
    )
    assert Counter(item.targets["emotion"] for item in manifest.utterances) == {0: 24, 1: 24}


def test_a_single_corpus_cannot_be_combined(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        Combined(corpora={"one": tables(tmp_path)["one"]}).scan()


def test_problems_name_their_corpus(tmp_path: Path) -> None:
    corpora = tables(tmp_path)
    path = tmp_path / "two.csv"
    path.write_text(path.read_text() + "\nu0,Again.,sad,s0")
    with pytest.raises(UserError, match="two/u0: expected one utterance of this id"):
        Combined(corpora=corpora).read()
