"""The trackers that a config asks for."""

from collections.abc import Mapping
from typing import Any

from emorec.configuration import instantiate
from emorec.runs.observer import RunObserver


def trackers(config: Mapping[str, Any]) -> list[RunObserver]:
    """One tracker for each entry of `logger` that is set; `history.csv` is written whatever it says."""
    found = []
    for name, settings in (config.get("logger") or {}).items():
        tracker = instantiate(settings, where=f"logger.{name}")
        assert isinstance(tracker, RunObserver)
        found.append(tracker)
    return found
