"""Annotations are checks: each kind takes what it says, and refuses the rest with the key and the reason."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from emorec.annotations import Count, NonNegative, Pattern, Positive, PositiveCount, Probability, Share
from emorec.config.texts import shown
from emorec.config.validation import build, check, check_arguments, describe, suggestion, unknown_keys, validated
from emorec.errors import UserError

NAN, INFINITY = float("nan"), float("inf")
Word = Annotated[str, Pattern("[a-z]+", "a word of small letters")]


@dataclass(frozen=True, kw_only=True)
class Cat:
    name: Literal["cat"]
    lives: PositiveCount = 9


@dataclass(frozen=True, kw_only=True)
class Dog:
    name: Literal["dog", "hound"]
    tricks: list[str] = field(default_factory=list)


Pet = Cat | Dog


@dataclass(frozen=True, kw_only=True)
class Room:
    size: Positive
    pets: Sequence[Pet] = ()


@dataclass(frozen=True, kw_only=True)
class House:
    folder: Path
    rooms: dict[str, Room]
    owner: str | None = None
    largest: Positive = 100.0

    def problems(self) -> Iterator[str]:
        for name, room in self.rooms.items():
            if room.size > self.largest:
                yield f"rooms.{name}.size: expected a number of at most largest={self.largest}, got {room.size}"


def problems_of(value: Any, annotation: Any) -> list[str]:
    problems: list[str] = []
    check(value, annotation, "key", problems)
    return problems


def converted(value: Any, annotation: Any) -> Any:
    problems: list[str] = []
    result = check(value, annotation, "key", problems)
    assert problems == []
    return result


# Single values


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "a text"),
        (Path, "a path"),
        (None, "null"),
        (Count, "a whole number of at least 0"),
        (PositiveCount, "a whole number of at least 1"),
        (Positive, "a number above 0"),
        (Probability, "a number of at least 0 and of at most 1"),
        (Share, "a number of at least 0 and below 1"),
        (Word, "a word of small letters"),
        (Literal["wait", "skip"], "'wait' or 'skip'"),
        (Literal["a", "b", 3], "'a', 'b' or 3"),
        (int | None, "a whole number or null"),
        (PositiveCount | None, "a whole number of at least 1 or null"),
        (Literal["all"] | list[str], "'all' or a list"),
        (list[int], "a list"),
        (tuple[int, ...], "a list"),
        (tuple[int, str], "a list of 2: a whole number, a text"),
        (Sequence[int], "a list"),
        (dict[str, int], "a mapping"),
        (Mapping[str, int], "a mapping"),
        (Pet, "a mapping"),
        (Room | None, "a mapping or null"),
    ],
)
def test_each_annotation_is_described_in_words(annotation: Any, text: str) -> None:
    assert describe(annotation) == text


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 0),
        (int, -3),
        (float, 0.5),
        (float, 3),
        (bool, False),
        (str, ""),
        (None, None),
        (int | None, None),
        (str | int, 3),
        (Count, 0),
        (PositiveCount, 1),
        (NonNegative, 0.0),
        (Positive, 1e-12),
        (Probability, 1),
        (Share, 0.999),
        (Annotated[int, Gt(1), Lt(4)], 3),
        (Annotated[int, Ge(1), Le(4)], 4),
        (Word, "word"),
        (Word | None, None),
        (Literal["a", 1, None], None),
        (Literal["a", 1, None], 1),
        (Literal[32, "32"], "32"),
        (list[int], []),
        (list[int | None], [1, None]),
        (list[list[str]], [["a"], []]),
        (Sequence[str], ["a", "b"]),
        (dict[str, int], {}),
        (dict[str, list[str]], {"a": ["b"]}),
        (Mapping[str, Any], {"a": {"b": [1]}}),
        (dict, {"a": 1}),
        (list, [1, "a"]),
        (Literal["all"] | list[str], "all"),
        (Literal["all"] | list[str], ["a"]),
        (Any, {"a": [1, None]}),
        (object, 3),
        ("not resolved", 3),
    ],
)
def test_a_value_that_fits_is_kept(annotation: Any, value: Any) -> None:
    assert converted(value, annotation) == value
    assert type(converted(value, annotation)) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "3"),
        (int, 3.0),
        (int, None),
        (int, [1]),
        (int, {"a": 1}),
        (int, True),
        (int, 2**63),
        (float, "0.1"),
        (float, False),
        (float, NAN),
        (float, INFINITY),
        (float, -INFINITY),
        (float, 10**400),
        (float | None, NAN),
        (bool, 1),
        (bool, "true"),
        (bool, None),
        (str, 3),
        (str, None),
        (str, ["a"]),
        (Path, 3),
        (Path, None),
        (None, 0),
        (Count, -1),
        (PositiveCount, 0),
        (PositiveCount | None, 0),
        (NonNegative, -0.1),
        (NonNegative, NAN),
        (Positive, 0),
        (Positive, INFINITY),
        (Probability, 1.1),
        (Share, 1),
        (Share, "0.5"),
        (Annotated[int, Gt(1)], 1),
        (Annotated[int, Lt(4)], 4),
        (Word, "Word"),
        (Word, "two words"),
        (Word, 3),
        (Literal["a", "b"], "c"),
        (Literal["a", "b"], None),
        (Literal["a", "b"], ["a"]),
        (Literal["a", "b"], {"a": 1}),
        (Literal[1], True),
        (Literal[True], 1),
        (Literal[1], 1.0),
        (list[int], "12"),
        (list[int], {"a": 1}),
        (list[int], None),
        (Sequence[str], "ab"),
        (tuple[int, int], [1]),
        (tuple[int, int], [1, 2, 3]),
        (tuple[int, int], [1, "2"]),
        (dict[str, int], [1]),
        (dict[str, int], "a"),
        (Mapping[str, int], None),
        (Room, 3),
        (Room, [1]),
        (Room, None),
        (Path | None, {"a": 1}),
    ],
)
def test_a_value_that_does_not_fit_is_one_problem_with_key_expected_and_got(annotation: Any, value: Any) -> None:
    assert problems_of(value, annotation) == [f"key: expected {describe(annotation)}, got {shown(value)}"]


def test_texts_become_paths_wherever_the_annotation_says_so() -> None:
    assert converted("a/b", Path) == Path("a/b")
    assert converted("a/b", Path | None) == Path("a/b")
    assert converted({"x": ["a"]}, dict[str, list[Path]]) == {"x": [Path("a")]}
    assert converted(Path("a"), Path) == Path("a")


def test_lists_become_tuples_where_the_annotation_says_so() -> None:
    assert converted([1, 2, 3], tuple[int, ...]) == (1, 2, 3)
    assert converted([1, "a"], tuple[int, str]) == (1, "a")
    assert converted([0.9, 1.1], tuple[float, float] | None) == (0.9, 1.1)


def test_an_object_that_is_already_made_is_kept() -> None:
    room = Room(size=3)
    assert converted(room, Room) is room
    assert converted(room, Room | None) is room


# Nested values


def test_a_problem_inside_a_list_or_a_mapping_has_the_key_of_the_value() -> None:
    assert problems_of([1, "two", 3, None], list[int]) == [
        "key[1]: expected a whole number, got 'two'",
        "key[3]: expected a whole number, got None",
    ]
    assert problems_of({"a": [1, True]}, dict[str, list[int]]) == ["key.a[1]: expected a whole number, got True"]
    assert problems_of([1], Literal["all"] | list[str]) == ["key[0]: expected a text, got 1"]


def test_a_mapping_becomes_the_dataclass_that_is_annotated() -> None:
    values = {"folder": "here", "rooms": {"hall": {"size": 3, "pets": [{"name": "cat", "lives": 7}]}}}
    house = validated(House, values)
    assert house == House(folder=Path("here"), rooms={"hall": Room(size=3, pets=[Cat(name="cat", lives=7)])})


def test_a_dataclass_of_a_union_is_chosen_by_its_name() -> None:
    assert converted({"name": "cat"}, Pet) == Cat(name="cat")
    assert converted({"name": "hound", "tricks": ["sit"]}, Pet) == Dog(name="hound", tricks=["sit"])
    assert converted(None, Pet | None) is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"name": "cow"}, "key.name: expected 'cat', 'dog' or 'hound', got 'cow'"),
        ({"lives": 3}, "key.name: expected 'cat', 'dog' or 'hound', got None"),
        ({"name": "dog", "lives": 3}, "key.lives: unknown key; expected one of name, tricks"),
        ({"name": "cat", "lives": 0}, "key.lives: expected a whole number of at least 1, got 0"),
        ("cat", "key: expected a mapping, got 'cat'"),
    ],
)
def test_a_problem_with_a_union_of_dataclasses_names_it(value: Any, problem: str) -> None:
    assert problems_of(value, Pet) == [problem]
    assert problems_of(value, Pet | None)[0].startswith(problem.partition(", got")[0])


def test_all_problems_are_reported_at_once_each_with_its_whole_key() -> None:
    values = {
        "folder": 3,
        "rooms": {"hall": {"size": 0, "pet": []}, "attic": {"pets": [{"name": "cat", "lives": 1.5}]}, "cellar": 3},
        "owner": ["me"],
        "largest": INFINITY,
        "colour": "red",
    }
    with pytest.raises(UserError) as caught:
        validated(House, values, heading="the house", path="house")
    heading, *lines = str(caught.value).splitlines()
    assert heading == "the house: 9 problem(s)"
    assert lines == [
        "  - house.colour: unknown key; expected one of folder, largest, owner, rooms",
        "  - house.folder: expected a path, got 3",
        "  - house.rooms.hall.pet: unknown key; did you mean house.rooms.hall.pets?",
        "  - house.rooms.hall.size: expected a number above 0, got 0",
        "  - house.rooms.attic.pets[0].lives: expected a whole number of at least 1, got 1.5",
        "  - house.rooms.attic.size: expected a number above 0, got nothing",
        "  - house.rooms.cellar: expected a mapping, got 3",
        "  - house.owner: expected a text or null, got ['me']",
        "  - house.largest: expected a number above 0, got inf",
    ]


def test_a_single_problem_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^the config: folder: expected a path, got nothing$"):
        validated(House, {"rooms": {}})


# Dataclasses


def test_defaults_stand_for_what_is_not_given() -> None:
    assert validated(House, {"folder": "here", "rooms": {}}) == House(folder=Path("here"), rooms={})


def test_the_dataclasss_own_checks_run_once_all_fields_fit() -> None:
    values: dict[str, Any] = {"folder": "here", "rooms": {"hall": {"size": 300}, "attic": {"size": 200}}}
    problems: list[str] = []
    build(House, values, "house", problems)
    assert problems == [
        "house.rooms.hall.size: expected a number of at most largest=100.0, got 300",
        "house.rooms.attic.size: expected a number of at most largest=100.0, got 200",
    ]
    with pytest.raises(UserError, match=r"^the config: owner: expected a text or null, got 3$"):
        validated(House, {**values, "owner": 3})


def test_what_a_constructor_refuses_is_a_problem() -> None:
    @dataclass(frozen=True)
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise UserError(f"even.number: expected an even number, got {self.number}")

    assert validated(Even, {"number": 4}).number == 4
    with pytest.raises(UserError, match=r"even\.number: expected an even number, got 3"):
        validated(Even, {"number": 3})


@dataclass(kw_only=True)
class Part:
    """Has an argument that is no field, and fields that are no arguments."""

    width: PositiveCount
    training: InitVar[Literal["frozen", "full"]] = "frozen"
    made: list[str] = field(default_factory=list, init=False)

    def __post_init__(self, training: str) -> None:
        self.made.append(training)


def test_an_init_var_is_checked_as_an_argument() -> None:
    problems: list[str] = []
    assert check_arguments(Part, {"width": 3, "training": "full"}, "part", problems) == {"width": 3, "training": "full"}
    check_arguments(Part, {"training": "half", "made": []}, "part", problems)
    assert problems == [
        "part.made: unknown key; expected one of training, width",
        "part.training: expected 'frozen' or 'full', got 'half'",
    ]


def test_a_field_that_is_no_argument_is_an_unknown_key() -> None:
    problems: list[str] = []
    assert build(Part, {"width": 1, "made": ["x"]}, "part", problems) is None
    assert problems[0].startswith("part.made: unknown key")


# Constructors


class Layer:
    def __init__(self, width: PositiveCount, *, name: str = "layer", sizes: tuple[int, ...] = (), other=None) -> None:  # type: ignore[no-untyped-def]
        self.width = width


class Open:
    def __init__(self, rate: Positive, **options: Any) -> None:
        self.rate, self.options = rate, options


class Unresolved:
    def __init__(self, rate: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
        self.rate = rate


def test_a_constructors_annotations_are_its_schema() -> None:
    problems: list[str] = []
    given = {"width": 0, "name": 3, "sizes": [1, "a"], "other": object, "widht": 1}
    check_arguments(Layer, given, "layer", problems)
    assert problems == [
        "layer.widht: unknown key; did you mean layer.width?",
        "layer.width: expected a whole number of at least 1, got 0",
        "layer.name: expected a text, got 3",
        "layer.sizes[1]: expected a whole number, got 'a'",
    ]


def test_arguments_that_fit_are_converted_and_missing_ones_are_not_looked_at() -> None:
    problems: list[str] = []
    assert check_arguments(Layer, {"sizes": [1, 2]}, "layer", problems) == {"sizes": (1, 2)}
    assert problems == []


def test_a_constructor_with_open_options_takes_any_key() -> None:
    problems: list[str] = []
    assert check_arguments(Open, {"rate": 1, "more": [1]}, "open", problems) == {"rate": 1, "more": [1]}
    check_arguments(Open, {"rate": 0}, "open", problems)
    assert problems == ["open.rate: expected a number above 0, got 0"]


def test_bounds_can_be_stricter_than_the_constructors_own() -> None:
    problems: list[str] = []
    check_arguments(Unresolved, {"rate": -1}, "x", problems)
    assert problems == [], "an annotation that cannot be resolved checks nothing"
    check_arguments(Unresolved, {"rate": -1}, "x", problems, {"rate": Positive})
    assert problems == ["x.rate: expected a number above 0, got -1"]


def test_a_class_of_torch_is_checked_by_its_own_annotations() -> None:
    import torch

    problems: list[str] = []
    check_arguments(torch.optim.lr_scheduler.OneCycleLR, {"anneal_strategy": "line"}, "scheduler", problems)
    check_arguments(torch.optim.SGD, {"momentom": 0.9, "nesterov": "yes"}, "optimizer", problems)
    assert problems == [
        "scheduler.anneal_strategy: expected 'cos' or 'linear', got 'line'",
        "optimizer.momentom: unknown key; did you mean optimizer.momentum?",
        "optimizer.nesterov: expected true or false, got 'yes'",
    ]


# Unknown keys


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    assert unknown_keys({"max_epoch": 1, "patience": 1}, ["max_epochs", "patience"], "trainer") == [
        "trainer.max_epoch: unknown key; did you mean trainer.max_epochs?"
    ]


def test_an_unknown_key_that_is_near_none_lists_what_there_is() -> None:
    assert suggestion("zzz", ["b", "a"], "x") == "; expected one of a, b"
    assert suggestion("zzz", []) == ""


def test_every_dataclass_of_the_schema_can_be_described_and_checked() -> None:
    from emorec.config import schema

    classes = [item for item in vars(schema).values() if dataclasses.is_dataclass(item) and isinstance(item, type)]
    assert len(classes) > 15
    for cls in classes:
        problems: list[str] = []
        build(cls, {}, "", problems)
        assert all(line.endswith("got nothing") for line in problems), problems
