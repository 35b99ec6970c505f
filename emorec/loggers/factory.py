"""The trackers that a config asks for."""

from collections.abc import Mapping
from typing import Any

from emorec.config.instantiation import instantiate
from emorec.errors import UserError
from emorec.loggers.base import RunObserver


def trackers(config: Mapping[str, Any]) -> list[RunObserver]:
    """One tracker for each entry of `logger` that is set; `history.csv` is written whatever it says.

    Raises:
        UserError: an entry is no tracker, or its settings or its library are not as they must be.
    """
    found = []
    for name, settings in (config.get("logger") or {}).items():
        if settings is None:
            continue
        where = f"logger.{name}"
        if not isinstance(settings, Mapping):
            raise UserError(f"expected {where} to be a node with a _target_, got {settings!r}")
        found.append(instantiate(settings, where=where, kind=RunObserver))
    return found
