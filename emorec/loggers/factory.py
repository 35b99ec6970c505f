"""Makes the loggers of a config."""

from collections.abc import Mapping
from functools import partial

from lightning.pytorch.loggers import Logger

from emorec.config.instantiation import Component
from emorec.errors import make_all
from emorec.loggers.base import RunLogger
from emorec.loggers.lightning import LightningLogger


def make_loggers(components: Mapping[str, Component | None]) -> list[RunLogger]:
    """One logger for each entry of `logger` that is set; a Lightning logger is wrapped in a `LightningLogger`.

    Raises:
        UserError: an entry is not a logger, its settings do not fit, or its package is missing; all problems at once.
    """
    makers = {name: partial(_make, name, component) for name, component in components.items() if component is not None}
    return list(make_all("logger", makers).values())


def _make(name: str, component: Component) -> RunLogger:
    if issubclass(component.target, Logger):
        return LightningLogger(name, component)
    return component.make(RunLogger)
