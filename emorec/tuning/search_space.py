"""The search space of a study: the overrides that it tries, and the distributions of their values."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emorec.config.keys import OPERATIONAL

if TYPE_CHECKING:
    from optuna.trial import Trial

# Arguments of the distributions.
REQUIRED = {
    "uniform": ("low", "high"),
    "log_uniform": ("low", "high"),
    "integer": ("low", "high"),
    "choice": ("values",),
}
OPTIONAL = {"uniform": ("step",), "integer": ("step", "log")}
NOT_SEARCHED = OPERATIONAL | {"study", "search"}  # these change no result
CORPUS_KEYS = ("dataset", "labels")  # scores on different data are not comparable


@dataclass(frozen=True)
class Entry:
    """One key of a search space."""

    key: str  # of the override, such as "optimizer.lr" or "encoder/text"
    settings: dict[str, Any]  # `distribution` and its arguments, checked

    @property
    def values(self) -> list[Any]:
        """All choices, or both ends of the range."""
        return self.settings.get("values") or [self.settings["low"], self.settings["high"]]

    def suggest(self, trial: "Trial") -> Any:
        """Draws a value for a trial."""
        settings = self.settings
        if settings["distribution"] == "choice":
            return trial.suggest_categorical(self.key, settings["values"])
        low, high, step = settings["low"], settings["high"], settings.get("step")
        if settings["distribution"] == "integer":
            return trial.suggest_int(self.key, low, high, step=step or 1, log=settings.get("log", False))
        return trial.suggest_float(self.key, low, high, step=step, log=settings["distribution"] == "log_uniform")


def parse_space(node: Mapping[str, Any], problems: list[str]) -> list[Entry]:
    """Parses `search` of a config, {key: distribution}; keys may be nested. Each error adds a line to `problems`."""
    entries: dict[str, Entry] = {}
    for key, settings in _leaves(node):
        repeated = ["is given twice"] if key in entries else []
        problems += [f"search.{key}: {problem}" for problem in (*_problems(settings), *repeated)]
        entries[key] = Entry(key, dict(settings) if isinstance(settings, Mapping) else {})
    if not entries:
        problems.append("search: expected at least one key, got none")
    return list(entries.values())


def key_of(override: str) -> str:
    """The key that an override sets, chooses or deletes."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def top_key(key: str) -> str:
    """The first name of a key or of a group: "encoder" of "encoder.text.layer" and of "encoder/text"."""
    return key.partition(".")[0].partition("/")[0]


def check_keys(
    entries: Sequence[Entry], *, config: Mapping[str, Any], groups: Mapping[str, str], given: Sequence[str]
) -> list[str]:
    """Checks the keys of a search space and returns a line for each error.

    Args:
        entries: the search space.
        config: the config whose values are searched.
        groups: {group: name} of the composed config.
        given: keys that the command line sets.
    """
    problems = []
    for entry in entries:
        key = entry.key
        if top_key(key) in NOT_SEARCHED:
            problem = "changes no result of a run, so it cannot be searched"
        elif top_key(key) in CORPUS_KEYS:
            problem = "scores on different data are not comparable: tune for one corpus, split and label map"
        elif key in given:
            problem = f"is in the search space and on the command line; remove one of them (~search.{key})"
        else:
            problem = _not_settable(key, entry.settings, config, groups)
        if problem:
            problems.append(f"search.{key}: {problem}")
    return problems


def hydra_override(key: str, value: Any) -> str:
    """`key=value` in Hydra's grammar; the value must be primitive."""
    if value is None or isinstance(value, bool):
        return f"{key}={'null' if value is None else str(value).lower()}"
    if isinstance(value, str):
        return "{}='{}'".format(key, value.replace("'", "\\'"))
    return f"{key}={value!r}"


def _not_settable(key: str, settings: Mapping[str, Any], config: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    """The reason why a key of the config cannot be set; empty if it can."""
    if key in groups:
        wrong = settings.get("distribution") != "choice"
        return f"expected distribution: choice for a group, got {settings.get('distribution')!r}" if wrong else ""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return f"expected a key or a group of the config, got an unknown name (groups: {sorted(groups)})"
        node = node[part]
    if not isinstance(node, Mapping):
        return ""
    group = key.replace(".", "/")
    hint = f"; write the group as {group!r}" if group in groups else ""
    return f"expected a key of a single value, got a mapping of {sorted(node)}{hint}"


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each distribution, or of another value in its position."""
    for key, value in node.items():
        inner = isinstance(value, Mapping) and "distribution" not in value and value
        if inner and all(isinstance(item, Mapping) for item in value.values()):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _problems(settings: Any) -> list[str]:
    if not isinstance(settings, Mapping) or settings.get("distribution") not in REQUIRED:
        got = settings.get("distribution") if isinstance(settings, Mapping) else settings
        return [f"expected a distribution in {tuple(REQUIRED)}, got {got!r}"]
    kind = settings["distribution"]
    arguments = (*REQUIRED[kind], *OPTIONAL.get(kind, ()))
    if not {"distribution", *REQUIRED[kind]} <= settings.keys() <= {"distribution", *arguments}:
        return [f"expected {kind} with {', '.join(arguments)}, got {', '.join(sorted(map(str, settings)))}"]
    return _choice_problems(settings["values"]) if kind == "choice" else _range_problems(settings)


def _choice_problems(values: Any) -> list[str]:
    if not isinstance(values, list) or not values:
        return [f"expected values to be a list, got {values!r}"]
    problems = [
        f"expected values to be numbers, strings, true, false or null, got {value!r}"
        for value in values
        if not (value is None or isinstance(value, str | int | float))
    ]
    repeated = sorted({repr(value) for value in values if values.count(value) > 1})
    return [*problems, *([f"expected each value once, got {', '.join(repeated)} again"] if repeated else [])]


def _range_problems(settings: Mapping[str, Any]) -> list[str]:
    kind, low, high, step = settings["distribution"], settings["low"], settings["high"], settings.get("step")
    whole = kind == "integer"
    if not all(_is_number(value, whole=whole) for value in (low, high, 1 if step is None else step)):
        numbers = "whole numbers" if whole else "numbers"
        return [f"expected low, high and step to be {numbers}, got {low!r}, {high!r}, {step!r}"]
    log = settings.get("log", False)
    if not isinstance(log, bool):
        return [f"expected log to be true or false, got {log!r}"]
    problems = []
    if not low < high:
        problems.append(f"expected low below high, got {low!r} and {high!r}")
    if (log or kind == "log_uniform") and low <= 0:
        problems.append(f"expected low above 0 on a logarithmic scale, got {low!r}")
    if step is not None and step <= 0:
        problems.append(f"expected step above 0, got {step!r}")
    if step is not None and log:
        problems.append("expected step or log, got both")
    return problems


def _is_number(value: Any, *, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
