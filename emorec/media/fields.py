"""Checks of the values that a config gives for the fields of media settings."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from emorec.errors import UserError

Interval = tuple[float, float]


def checked_number(value: Any, where: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from `low` to `high`, both included.

    Raises:
        UserError: the value is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"expected {where} to be a number, got {value!r}")
    if not low <= value <= high:
        raise UserError(f"expected {where} from {low:g} to {high:g}, got {value!r}")
    return float(value)


def checked_count(value: Any, where: str, *, low: int = 0) -> int:
    """A whole number of at least `low`.

    Raises:
        UserError: the value is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"expected {where} to be a whole number of at least {low}, got {value!r}")
    return value


def checked_interval(value: Any, where: str, *, low: float = -math.inf, high: float = math.inf) -> Interval:
    """Two numbers in ascending order, from `low` to `high`.

    Raises:
        UserError: the value is no such pair.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"expected {where} to be [lowest, highest], got {value!r}")
    first, last = (checked_number(item, where, low=low, high=high) for item in value)
    if first > last:
        raise UserError(f"expected {where} to be [lowest, highest], got {value!r}")
    return first, last


def checked_keys(given: Any, known: Iterable[str], where: str) -> Mapping[str, Any]:
    """A mapping that has known keys only.

    Raises:
        UserError: it is no mapping, or has another key.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"expected {where} to be a mapping with keys of {sorted(known)}, got {given!r}")
    unknown = sorted(str(key) for key in set(given) - set(known))
    if unknown:
        raise UserError(f"expected keys of {where} in {sorted(known)}, got {unknown}")
    return given
