"""The fairness card, on predictions whose scores are known."""

from dataclasses import replace

import numpy as np
import pytest

from emorec.cards.fairness import compared
from emorec.cards.groups import columns_of
from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError
from emorec.runs.stored_predictions import StoredPredictions

TASK = Task(name="emotion", labels=("calm", "angry"), monitor="uar")


def predictions_of(target: list[int], predicted: list[int], speaker: list[str]) -> StoredPredictions:
    count = len(target)
    return StoredPredictions(
        id=np.array([f"u{number}" for number in range(count)], dtype=object),
        speaker=np.array(speaker, dtype=object),
        dialogue=np.full(count, None, dtype=object),
        target=np.array(target),
        predicted=np.array(predicted),
        probabilities=np.eye(2, dtype=np.float32)[predicted],
    )


def two_groups(first: int, second: int) -> tuple[StoredPredictions, list[str]]:
    """`first` utterances of group a, all right, and `second` of b, of which every second angry one is wrong."""
    targets = [number % 2 for number in range(first + second)]
    predicted = [
        0 if number >= first and target == 1 and number % 4 == 1 else target for number, target in enumerate(targets)
    ]
    groups = ["a"] * first + ["b"] * second
    speakers = [f"{group}{number % 3}" for number, group in enumerate(groups)]
    return predictions_of(targets, predicted, speakers), groups


def test_the_gap_is_that_of_the_worst_group_from_the_best() -> None:
    predictions, groups = two_groups(80, 80)
    comparison = compared("gender", groups, predictions, TASK)
    first, second = comparison.groups
    assert (first.name, first.utterances, first.clusters, first.over) == ("a", 80, 3, "speakers")
    assert first.metrics["uar"] == 1
    assert second.metrics["uar"] == pytest.approx((1 + 0.5) / 2)
    assert second.recalls == {"calm": (1.0, 40), "angry": (0.5, 40)}
    gap = comparison.gap
    assert gap is not None
    assert (gap.worst, gap.best) == ("b", "a")
    assert gap.value == pytest.approx(0.25)
    assert gap.interval is not None
    assert gap.interval.low < 0.25 < gap.interval.high
    assert comparison.recall_gaps == {"calm": 0.0, "angry": pytest.approx(0.5)}


def test_a_small_group_is_shown_and_not_compared() -> None:
    predictions, groups = two_groups(60, 28)
    comparison = compared("gender", groups, predictions, TASK)
    assert [(group.name, group.is_large) for group in comparison.groups] == [("a", True), ("b", False)]
    assert comparison.gap is None
    assert comparison.recall_gaps == {}


def test_a_class_with_few_utterances_of_a_group_has_no_gap() -> None:
    predictions, groups = two_groups(58, 58)  # 29 of each class
    comparison = compared("gender", groups, predictions, TASK)
    assert comparison.gap is not None
    assert comparison.recall_gaps == {}


def test_with_a_lower_error_being_better_the_worst_group_has_the_higher_one() -> None:
    task = Task(name="valence", kind="regression", labels=("valence",), monitor="mae", direction="min")
    predictions, groups = two_groups(40, 40)
    error = np.array([0.1] * 40 + [0.3] * 40)
    target = np.linspace(-1, 1, 80)
    values = replace(predictions, target=target, predicted=target + error, probabilities=np.zeros((80, 0)))
    gap = compared("gender", groups, values, task).gap
    assert gap is not None
    assert (gap.worst, gap.best) == ("b", "a")
    assert gap.value == pytest.approx(0.2)


def test_one_speaker_is_resampled_by_utterances() -> None:
    predictions, _ = two_groups(40, 40)
    first = compared("speaker", list(predictions.speaker), predictions, TASK).groups[0]
    assert first.over == "utterances"
    assert first.clusters == first.utterances


def test_utterances_of_no_group_do_not_count() -> None:
    predictions, groups = two_groups(40, 40)
    comparison = compared(
        "gender", [None if number % 2 else name for number, name in enumerate(groups)], predictions, TASK
    )
    assert [group.utterances for group in comparison.groups] == [20, 20]


def people(**columns: list[str | int | float]) -> list[Utterance]:
    count = len(next(iter(columns.values())))
    return [
        Utterance(
            id=f"u{row}",
            dataset="custom",
            targets={},
            speaker=f"s{row}",
            metadata={name: values[row] for name, values in columns.items()},
        )
        for row in range(count)
    ]


def test_columns_with_few_values_are_groups_by_themselves() -> None:
    utterances = people(gender=["f", "m"] * 15, constant=[1] * 30, take=list(range(30)))
    assert list(columns_of(utterances, None)) == ["gender", "speaker"]


def test_many_numbers_are_grouped_by_quarters() -> None:
    columns = columns_of(people(age=list(range(20, 60))), ["age"])
    groups = columns["age"]
    assert [groups.count(name) for name in dict.fromkeys(groups)] == [10, 10, 10, 10]
    assert groups[0] == "20 to 29.75"
    assert groups[-1] == "above 49.25 to 59"


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"of \['gender', 'speaker'\], got \['age', 'constant'\]"):
        columns_of(people(gender=["f", "m"], constant=[1, 1]), ["gender", "age", "constant"])
