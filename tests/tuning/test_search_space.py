import pytest
from optuna.trial import FixedTrial

from emorec.tuning.search_space import Entry, check_keys, hydra_override, parse_space

CONFIG = {
    "optimizer": {"lr": 0.001},
    "model": {"hidden": 16},
    "encoder": {"text": {"dim": 4}},
    "fusion": {"pooling": "mean"},
    "seed": 0,
    "test": False,
    "paths": {"cache": "here"},
}
GROUPS = {"encoder/text": "hashed_ngrams", "fusion": "concat", "dataset": "demo"}


def parsed(node: dict[str, object]) -> tuple[list[Entry], list[str]]:
    problems: list[str] = []
    return parse_space(node, problems), problems


def test_nested_and_dotted_keys_are_the_same() -> None:
    settings = {"distribution": "uniform", "low": 0, "high": 1}
    nested, dotted = parsed({"optimizer": {"lr": settings}}), parsed({"optimizer.lr": settings})
    assert nested == dotted == ([Entry("optimizer.lr", settings)], [])


def test_a_key_given_in_both_ways_is_a_problem() -> None:
    settings = {"distribution": "choice", "values": [1]}
    assert parsed({"model": {"hidden": settings}, "model.hidden": settings})[1] == [
        "search.model.hidden: is given twice"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (3, "expected a distribution in"),
        ({"low": 1, "high": 2}, "expected a distribution in"),
        ({"distribution": "normal"}, "got 'normal'"),
        ({"distribution": "uniform", "low": 0}, "expected uniform with low, high, step"),
        ({"distribution": "log_uniform", "low": 1, "high": 2, "step": 1}, "expected log_uniform with low, high"),
        ({"distribution": "uniform", "low": 1, "high": 0}, "low below high"),
        ({"distribution": "uniform", "low": "a", "high": 1}, "to be numbers"),
        ({"distribution": "uniform", "low": 0, "high": float("inf")}, "to be numbers"),
        ({"distribution": "log_uniform", "low": 0, "high": 1}, "above 0 on a logarithmic scale"),
        ({"distribution": "integer", "low": 0.5, "high": 2}, "whole numbers"),
        ({"distribution": "integer", "low": True, "high": 2}, "whole numbers"),
        ({"distribution": "integer", "low": 1, "high": 8, "log": 1}, "log to be true or false"),
        ({"distribution": "integer", "low": 1, "high": 8, "log": True, "step": 2}, "step or log, got both"),
        ({"distribution": "integer", "low": 1, "high": 8, "step": 0}, "step above 0"),
        ({"distribution": "choice", "values": []}, "values to be a list"),
        ({"distribution": "choice", "values": "abc"}, "values to be a list"),
        ({"distribution": "choice", "values": [[1, 2]]}, "got [1, 2]"),
        ({"distribution": "choice", "values": [1, 2, 1]}, "each value once, got 1 again"),
    ],
)
def test_an_invalid_distribution_is_reported_with_its_key(settings: object, message: str) -> None:
    (problem,) = parsed({"optimizer.lr": settings})[1]
    assert problem.startswith("search.optimizer.lr: ")
    assert message in problem


def test_all_problems_are_reported_and_an_empty_space_is_one() -> None:
    assert len(parsed({"a": 1, "b": {"distribution": "uniform"}, "c": {"d": {"low": 1}}})[1]) == 3
    assert parsed({})[1] == ["search: expected at least one key, got none"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimizer.rate", "got an unknown name"),
        ("encoder.text", "write the group as 'encoder/text'"),
        ("model", "got a mapping of ['hidden']"),
        ("test", "changes no result"),
        ("paths.cache", "changes no result"),
        ("dataset", "not comparable"),
        ("dataset.fold", "not comparable"),
        ("model.hidden", "on the command line;"),
    ],
)
def test_a_key_that_cannot_be_searched_is_reported(key: str, message: str) -> None:
    entry = Entry(key, {"distribution": "choice", "values": [1]})
    (problem,) = check_keys([entry], config=CONFIG, groups=GROUPS, given=["model.hidden"])
    assert message in problem
    assert problem.startswith(f"search.{key}: ")


def test_groups_take_names_and_keys_take_any_distribution() -> None:
    uniform = {"distribution": "uniform", "low": 0, "high": 1}
    entries = [Entry("optimizer.lr", uniform), Entry("fusion", {"distribution": "choice", "values": ["gated"]})]
    assert check_keys(entries, config=CONFIG, groups=GROUPS, given=[]) == []
    (problem,) = check_keys([Entry("fusion", uniform)], config=CONFIG, groups=GROUPS, given=[])
    assert "choice for a group" in problem


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"distribution": "uniform", "low": 0.0, "high": 1.0, "step": 0.25}, 0.5),
        ({"distribution": "log_uniform", "low": 1e-5, "high": 1e-1}, 1e-3),
        ({"distribution": "integer", "low": 1, "high": 9, "step": 2}, 5),
        ({"distribution": "integer", "low": 1, "high": 64, "log": True}, 8),
        ({"distribution": "choice", "values": ["a", None, 1.5]}, None),
    ],
)
def test_values_are_drawn_from_their_distribution(settings: dict[str, object], value: object) -> None:
    assert Entry("key", settings).suggest(FixedTrial({"key": value})) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "override"),
    [(1e-05, "k=1e-05"), (3, "k=3"), (True, "k=true"), (None, "k=null"), ("a b", "k='a b'"), ("it's", "k='it\\'s'")],
)
def test_values_become_overrides(value: object, override: str) -> None:
    assert hydra_override("k", value) == override
