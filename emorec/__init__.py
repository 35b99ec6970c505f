"""Experiment suite for emotion recognition from text, audio and video.

The public Python API; each name is imported when it is first used:

- `load_run`: a finished run with its record, predictions, history and model, which predicts your own clips.
- `runs`: all runs of a store as a pandas frame of configs and metrics.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emorec.inference.loaded_run import LoadedRun, load_run, runs

__version__ = "0.1.0"
__all__ = ["LoadedRun", "__version__", "load_run", "runs"]
STARTED = time.monotonic()  # about when this process started
_API = ("LoadedRun", "load_run")  # `runs` is the package of that name, which can be called


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'emorec' has no attribute {name!r}")
    return getattr(importlib.import_module("emorec.inference.loaded_run"), name)
