"""Checks values against type annotations, and collects every problem under its key path.

Config dataclasses and the constructors of components are their own schema: a field's annotation says what it takes.
`Annotated` adds bounds from `annotated_types`. Nothing is coerced: `"3"` is no number and `true` is not 1.
"""

import dataclasses
import difflib
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from emorec.annotations import Pattern
from emorec.config.keys import leaves
from emorec.config.texts import shown, text_problem
from emorec.errors import UserError, raise_problems

T = TypeVar("T")

NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    NoneType: "null",
    None: "null",
}
BOUNDS: dict[Any, tuple[str, str, Callable[[Any, Any], bool]]] = {
    Ge: ("of at least", "ge", operator.ge),
    Gt: ("above", "gt", operator.gt),
    Le: ("of at most", "le", operator.le),
    Lt: ("below", "lt", operator.lt),
}
_SEQUENCES, _MAPPINGS = (list, tuple, Sequence), (dict, Mapping)
_PRIMITIVES: dict[Any, Any] = {
    **{kind: kind for kind in (str, int, bool, NoneType)},
    None: NoneType,
    float: int | float,
    Path: str | Path,
}
_PLAIN = (str, int, float, list, tuple, Mapping, NoneType)
_MISMATCH = ""


def describe(annotation: Any) -> str:
    """What an annotation takes, for a message: "a whole number of at least 1", "'wait' or 'skip'"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if origin is Annotated:
        patterns = [item.description for item in arguments[1:] if isinstance(item, Pattern)]
        named = [(*BOUNDS[type(item)][:2], item) for item in arguments[1:] if type(item) in BOUNDS]
        bounds = [f"{words} {getattr(item, name)}" for words, name, item in named]
        return patterns[0] if patterns else f"{describe(arguments[0])} {' and '.join(bounds)}".strip()
    if origin is Literal:
        return _either([repr(item) for item in arguments])
    if origin in (Union, UnionType):
        return _either([describe(item) for item in arguments])
    if kind in _SEQUENCES:
        many = kind is tuple and Ellipsis not in arguments
        return f"a list of {len(arguments)}: {', '.join(map(describe, arguments))}" if many and arguments else "a list"
    if kind in _MAPPINGS or dataclasses.is_dataclass(kind):
        return "a mapping"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def check(value: Any, annotation: Any, path: str, problems: list[str]) -> Any:
    """Checks plain data against an annotation, and adds a line to `problems` for everything that does not fit.

    A class that is neither a dataclass nor a primitive takes any object that is none; `path` is the value's dotted key.

    Returns:
        The value, with mappings made into the dataclasses that the annotation names, and texts into paths.
    """
    details: list[str] = []
    for alternative in _alternatives(annotation):
        lines: list[str] = []
        result = _check_one(value, alternative, path, lines)
        if not lines:
            return result
        details = details or [line for line in lines if line != _MISMATCH]
    names = [name for alternative in _alternatives(annotation) for name in _names(alternative)]
    if names and isinstance(value, Mapping) and value.get("name") not in names:
        details = [f"{join(path, 'name')}: expected {_either(list(map(repr, names)))}, got {value.get('name')!r}"]
    problems += details or [f"{path}: expected {describe(annotation)}, got {shown(value)}"]
    return value


def _check_one(value: Any, annotation: Any, path: str, problems: list[str]) -> Any:
    """`check` for an annotation that is no union; adds `_MISMATCH` where the value as a whole does not fit."""
    if annotation is Any:
        return value
    origin, arguments = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if origin is Annotated:
        result = _check_one(value, arguments[0], path, problems)
        if not problems and not _within(value, arguments[1:]):
            problems.append(_MISMATCH)
        return result
    if kind in _SEQUENCES and isinstance(value, list | tuple):
        return _check_items(value, kind, arguments, path, problems)
    if isinstance(value, Mapping):
        return _check_mapping(value, annotation, path, problems)
    if kind in (*_SEQUENCES, *_MAPPINGS) or not _is_a(value, annotation):
        problems.append(_MISMATCH)
    return Path(value) if annotation is Path and isinstance(value, str) else value


def _check_mapping(value: Mapping[str, Any], annotation: Any, path: str, problems: list[str]) -> Any:
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind in _MAPPINGS:
        item = arguments[1] if arguments else Any
        return {str(key): check(inner, item, join(path, str(key)), problems) for key, inner in value.items()}
    if hasattr(kind, "from_node"):
        return kind.from_node(value, path, problems)
    if dataclasses.is_dataclass(kind) and (not _names(kind) or value.get("name") in _names(kind)):
        cls: Any = kind
        return build(cls, value, path, problems)
    if kind is Literal or not _is_a(value, kind):
        problems.append(_MISMATCH)
    return value


def _check_items(value: Sequence[Any], kind: Any, arguments: Any, path: str, problems: list[str]) -> Any:
    if kind is tuple and arguments and Ellipsis not in arguments:
        inner: list[str] = []
        items = tuple(check(item, each, path, inner) for item, each in zip(value, arguments, strict=False))
        if inner or len(value) != len(arguments):
            problems.append(_MISMATCH)
        return items
    item = arguments[0] if arguments else Any
    checked = [check(inner, item, f"{path}[{index}]", problems) for index, inner in enumerate(value)]
    return tuple(checked) if kind is tuple else checked


def _is_a(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return any(value == item and type(value) is type(item) for item in get_args(annotation))
    if annotation in _PRIMITIVES:
        is_number = annotation in (int, float)
        return isinstance(value, _PRIMITIVES[annotation]) and not (is_number and not _is_number(value))
    # a class of ours or of another package: made by the caller, so that plain data does not fit it
    return annotation is object or not isinstance(annotation, type) or not isinstance(value, _PLAIN)


def _is_number(value: Any) -> bool:
    """Whether a number is finite and fits 64 bits, and is no truth value."""
    return not isinstance(value, bool) and (abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value))


def _names(annotation: Any) -> tuple[Any, ...]:
    """The values of a dataclass's literal field `name`, by which the dataclasses of a union are told apart."""
    cls: Any = annotation
    name = _annotations(cls).get("name") if dataclasses.is_dataclass(annotation) else None
    return get_args(name) if get_origin(name) is Literal else ()


def _within(value: Any, metadata: Iterable[Any]) -> bool:
    for item in metadata:
        if type(item) in BOUNDS:
            _, name, holds = BOUNDS[type(item)]
            if not holds(value, getattr(item, name)):
                return False
        elif isinstance(item, Pattern) and not re.fullmatch(item.expression, value):
            return False
    return True


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def build(cls: type[T], values: Mapping[str, Any], path: str, problems: list[str]) -> T | None:
    """Makes a dataclass from a mapping; `None` where something does not fit.

    A dataclass may define `problems() -> Iterable[str]`, which is called once all fields fit; lines start with a key.
    """
    before = len(problems)
    annotations: dict[str, Any] = _annotations(cls)  # type: ignore[arg-type]
    fields: Any = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = {item.name: item for item in fields if item.init}
    problems += unknown_keys(values, known, path)
    made = {
        name: check(values[name], annotations[name], join(path, name), problems) for name in known if name in values
    }
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            problems.append(f"{join(path, name)}: expected {describe(annotations[name])}, got nothing")
    if len(problems) > before:
        return None
    try:
        result = cls(**made)
    except UserError as error:
        problems.append(str(error))
        return None
    if callable(more := getattr(result, "problems", None)):
        problems += [join(path, line) for line in more()]
    return result


def validated(cls: type[T], values: Mapping[str, Any], *, heading: str = "the config", path: str = "") -> T:
    """A dataclass from plain data.

    Raises:
        UserError: lists everything that does not fit.
    """
    problems: list[str] = []
    result = build(cls, values, path, problems)
    problems += _unusable(values, path, reported={line.partition(":")[0] for line in problems})
    raise_problems(heading, problems)
    assert result is not None
    return result


def _unusable(values: Mapping[str, Any], path: str, reported: Set[str]) -> Iterator[str]:
    """A line for each value that no annotation can take: a text that no file can hold, or a number without end."""
    for keys, value in leaves(values, into_lists=True):
        key = join(path, ".".join(keys))
        if key in reported:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key}: expected a finite number, got {value}"
        elif problem := text_problem(key) or (isinstance(value, str) and text_problem(value)):
            yield f"{key}: {problem}"


def check_arguments(
    target: type, arguments: Mapping[str, Any], path: str, problems: list[str], bounds: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Checks the arguments that are given against a constructor's annotations, and converts them; see `check`.

    `bounds` are {argument: annotation} that are stricter than the constructor's own.
    """
    parameters = inspect.signature(target).parameters
    takes_all = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())
    if not takes_all:
        problems += unknown_keys(arguments, parameters, path)
    annotations = {**_annotations(target), **(bounds or {})}
    return {
        name: check(value, annotations.get(name, Any), join(path, name), problems)
        for name, value in arguments.items()
        if takes_all or name in parameters
    }


def unknown_keys(values: Mapping[str, Any], known: Iterable[str], path: str) -> list[str]:
    """A line for each key that is not known, with the nearest one that is."""
    names = list(known)
    unknown = [str(key) for key in values if key not in names]
    return [f"{join(path, key)}: unknown key{suggestion(key, names, path)}" for key in unknown]


def suggestion(key: str, known: Sequence[str], path: str = "") -> str:
    """ "; did you mean …?" for the nearest known key, else the list of what there is."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if nearest:
        return f"; did you mean {join(path, nearest[0])}?"
    return f"; expected one of {', '.join(sorted(known))}" if known else ""


def join(path: str, key: str) -> str:
    """A dotted key."""
    return f"{path}.{key}" if path else key


@lru_cache(maxsize=256)
def _annotations(target: Any) -> dict[str, Any]:
    """{field or parameter: its annotation}; of another package's class only those that can be resolved."""
    source: Any = target if dataclasses.is_dataclass(target) else target.__init__
    try:
        annotations = get_type_hints(source, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}
    return {name: item.type if isinstance(item, dataclasses.InitVar) else item for name, item in annotations.items()}


def _either(items: Sequence[str]) -> str:
    unique = list(dict.fromkeys(items))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"
