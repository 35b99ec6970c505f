"""The jobs of a command line."""

import sys

import pytest

from emorec.errors import UserError
from emorec.sweeps.expansion import expand, expand_folds, expand_lines, may_fork, varying


def test_a_multirun_is_the_product_of_all_values() -> None:
    jobs = expand(["seed=range(0,2)", "fusion=concat,gated", "tags=[a,b]"])
    assert jobs == [
        ["seed=0", "fusion=concat", "tags=[a,b]"],
        ["seed=0", "fusion=gated", "tags=[a,b]"],
        ["seed=1", "fusion=concat", "tags=[a,b]"],
        ["seed=1", "fusion=gated", "tags=[a,b]"],
    ]


def test_an_override_that_does_not_parse_is_reported() -> None:
    with pytest.raises(UserError, match="seed"):
        expand(["seed=choice("])


def test_fold_all_is_replaced_by_one_job_for_each_fold() -> None:
    jobs = expand_folds(["seed=1", "++dataset.fold=all"], 3)
    assert jobs == [["seed=1", f"dataset.fold={fold}"] for fold in range(3)]


def test_a_protocol_without_folds_has_one_job() -> None:
    assert expand_folds(["dataset.fold=all", "seed=1"], 0) == [["seed=1", "dataset.fold=null"]]


def test_a_table_shows_what_varies() -> None:
    assert varying([["a=1", "b=1"], ["a=1", "b=2"]]) == [["b=1"], ["b=2"]]
    assert varying([["a=1"]]) == [["a=1"]]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=range(4)"], True),
        (["seed=0,1,2"], False),
        (["seed=0,1", "launcher=local"], True),
        (["seed=range(4)", "launcher=auto"], True),
        (["seed=range(4)", "launcher=local", "launcher=basic"], False),
        (["seed=range(4)", "launcher=slurm"], False),
        (["seed=range(4)", "launcher=local", "launcher.start=spawn"], False),
    ],
)
def test_jobs_are_likely_to_be_forked_where_there_are_several_or_they_are_asked_to_be(
    overrides: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("emorec.sweeps.expansion.usable_cores", lambda: 2)
    monkeypatch.setattr("emorec.sweeps.expansion.has_gpu_driver", lambda: False)
    assert may_fork(overrides) is expected
    monkeypatch.setattr("emorec.sweeps.expansion.has_gpu_driver", lambda: True)
    assert not may_fork(overrides)


LINES = ["experiment=ours head=knn,linear_svm seed=0", "experiment=ours,theirs seed=0,1"]


def test_an_experiment_of_several_stands_for_the_jobs_of_its_lines() -> None:
    jobs = expand_lines(LINES, ["experiment=table", "dataset.root=/data", "++sweep.jobs=null"], "table")
    rest = ["dataset.root=/data", "sweep.name=table"]
    assert jobs == [
        ["experiment=ours", "head=knn", "seed=0", *rest],
        ["experiment=ours", "head=linear_svm", "seed=0", *rest],
        ["experiment=ours", "seed=0", *rest],
        ["experiment=ours", "seed=1", *rest],
        ["experiment=theirs", "seed=0", *rest],
        ["experiment=theirs", "seed=1", *rest],
    ]


def test_the_command_line_takes_the_place_of_what_a_line_says() -> None:
    assert expand_lines(LINES, ["experiment=table", "seed=3", "sweep.name=again", "head=knn"], "table") == [
        ["experiment=ours", "seed=3", "sweep.name=again", "head=knn"],
        ["experiment=theirs", "seed=3", "sweep.name=again", "head=knn"],
    ]
