"""The loggers of a config."""

from collections.abc import Mapping
from functools import partial

from emorec.config.instantiation import Component
from emorec.errors import make_all
from emorec.loggers.base import RunLogger


def make_loggers(components: Mapping[str, Component | None]) -> list[RunLogger]:
    """One logger for each entry of `logger` that is set.

    Raises:
        UserError: an entry is no logger, or its settings or its library are not as expected; all problems at once.
    """
    makers = {name: partial(_make, component) for name, component in components.items() if component is not None}
    return list(make_all("logger", makers).values())


def _make(component: Component) -> RunLogger:
    return component.make(RunLogger)
