"""Says in terms of keys and values what Hydra and OmegaConf refuse."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from emorec.config.texts import SHOWN, shown
from emorec.config.validation import suggestion
from emorec.errors import UserError, first_line, raise_interruption

MOST_HINTS = 4  # keys of the same name elsewhere that are worth a hint
REFUSED_KEY = re.compile(
    r"Could not (?:override|append to config\. An item is already at|delete from config\.) '([^']+)'"
)
NO_GROUP = re.compile(r"Could not override '([^']+)'\.?\s*No match in the defaults list")
IN_FILE = re.compile(r"In '([^']+)': (\w+) raised while composing config")
AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]+)=(.*)'")


@contextmanager
def hydra_errors(known: Callable[[], Mapping[str, Any]] = dict) -> Iterator[None]:
    """Raises a `UserError` for what Hydra refuses; `known` gives {dotted key: value} for hints."""
    try:
        yield
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(" ")[2]
        raise UserError(f"{key}: expected a value, got nothing ({key}=…)") from error
    except OverrideParseException as error:
        raise UserError(_unreadable(str(error.override))) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise_interruption(error)
        raise UserError(_in_words(error, known)) from error
    except RecursionError as error:
        raise UserError("expected values of a few levels, got too many inside each other") from error
    except ValueError as error:  # such as a number of thousands of digits
        reason = "a number of too many digits" if "int_max_str_digits" in str(error) else first_line(error)
        raise UserError(f"expected a config that Hydra reads, got {reason}") from error


def _unreadable(override: str) -> str:
    """What to write instead of an override that does not parse."""
    key, separator, value = override.partition("=")
    if not separator:
        return f"expected key=value, got {shown(override)}"
    if len(value) > SHOWN or re.search(r"['\"]", value):
        return f"{key}: expected a value whose quotes and brackets match, got {shown(value)}"
    return f"""{key}: expected quotes around a value with such marks, "{key}='{value}'", got {key}={value}"""


def _in_words(error: HydraException | OmegaConfBaseException, known: Callable[[], Mapping[str, Any]]) -> str:
    text, cause = str(error).strip(), _cause(error)
    key = getattr(error, "full_key", None) or getattr(error.__cause__, "full_key", None)
    if match := NO_GROUP.search(text):
        return _no_group(match[1], known())
    if match := REFUSED_KEY.search(text):
        is_inside = key is not None and match[1].startswith(f"{key}.")  # of a node that is null
        return _refused_key(match[1] if is_inside else key or match[1], text, known())
    if match := AMBIGUOUS.search(text):
        reason = (
            f"expected one value, got {match[2]}; -m runs each of them, [{match[2]}] is a list, and one text stands in "
            f"""quotes: "{match[1]}='{match[2]}'\""""
        )
        return f"{match[1]}: {reason}"
    if match := IN_FILE.match(text):
        refused = "unknown key" if match[2] == "ConfigKeyError" else first_line(error.__cause__ or error)
        return f"{match[1]}.yaml: {key or 'some key'}: {refused}"
    reason = str(cause) if cause is not None else first_line(error)
    if isinstance(error, MissingConfigException):
        reason = _no_choice(error, reason)
    if not key or cause is not None:
        return f"{key}: {reason}" if key else reason
    before, _, after = reason.partition("raised while resolving interpolation: ")
    return f"{key}: expected a value that can be read, got {after or before}"


def _no_choice(error: MissingConfigException, reason: str) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if error.options:
        return f"{group}: expected a choice in {sorted(error.options)}, got {name!r}"
    return f"expected a config of the name {error.missing_cfg_file!r}, found none: {reason}"


def _no_group(name: str, known: Mapping[str, Any]) -> str:
    inside = sorted({key.removeprefix(f"{name}.").split(".")[0] for key in known if key.startswith(f"{name}.")})
    hint = f", such as {' or '.join(f'{name}/{other}' for other in inside)}" if inside else ""
    return f"{name}: expected a group of the config{hint}"


def _refused_key(key: str, text: str, known: Mapping[str, Any]) -> str:
    if "Could not append" in text:
        return f"+{key}: expected a key that the config does not have; {key}=… changes it"
    if key in known:  # Hydra finds no key whose value is null
        return f"~{key}: expected a key with a value, got one that is null already"
    parents = [key[:end] for end, mark in enumerate(key) if mark == "."]
    if empty := next((parent for parent in parents if parent in known and known[parent] is None), None):
        names = key.removeprefix(f"{empty}.").split(".")
        node = f"{{{': {'.join(names)}: …{'}' * len(names)}"
        return f"{key}: expected settings in {empty}, which is null; '{empty}={node}' gives it some"
    return f"{key}: unknown key{_hint(key, known)}"


def _cause(error: BaseException) -> UserError | None:
    """The `UserError` behind an error, if there is one."""
    hidden: BaseException | None = error
    while hidden is not None and not isinstance(hidden, UserError):
        hidden = hidden.__cause__ or hidden.__context__
    return hidden


def _hint(key: str, known: Mapping[str, Any]) -> str:
    """The nearest known keys: by the last name in full, beside it first, else by a part of it."""
    parent, _, name = key.rpartition(".")
    if known.get(parent) == {}:  # takes any names
        return f"; +{key}=… adds it"
    same_name = [other for other in known if _is_name(name, other.rpartition(".")[2])]
    same_name = [other for other in same_name if other.rpartition(".")[0] == parent] or same_name
    beside = [other.removeprefix(f"{parent}.") for other in known if other.startswith(f"{parent}.")] if parent else []
    hint = suggestion(name, beside, parent) if beside else ""
    misspelt = "did you mean" in hint and all(other.rpartition(".")[0] != parent for other in same_name)
    if 0 < len(same_name) <= MOST_HINTS and not misspelt:
        return f"; did you mean {' or '.join(same_name)}?"
    if not beside:
        return suggestion(key, list(known)).partition("; expected one of")[0]
    takes_more = "_target_" in beside and "expected one of" in hint
    return f"{hint}; +{key}=… gives an argument that the YAML file does not list" if takes_more else hint


def _is_name(name: str, other: str) -> bool:
    """Whether two names are the same, or one is short for the other: `lr` for `learning_rate`."""
    return name == other or _initials(name) == other or name == _initials(other)


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_")) if "_" in name.strip("_") else name
