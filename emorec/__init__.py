"""Experiment suite for emotion recognition from text, audio and video.

The public Python API; each name is imported when it is first used:

- `load_run`: a finished run with its record, predictions, history and model, which predicts your own clips.
- `Predictor`: predicts with one run or with several, also many clips and long recordings.
- `runs`: all runs of a store as a pandas frame of configs and metrics.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emorec.inference.loaded_run import LoadedRun, load_run, runs
    from emorec.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["LoadedRun", "Predictor", "__version__", "load_run", "runs"]
STARTED = time.monotonic()  # about when this process started
# name -> its module in `inference`; `runs` is the package of that name, which can be called
_API = {"LoadedRun": "loaded_run", "load_run": "loaded_run", "Predictor": "predictor"}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'emorec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"emorec.inference.{_API[name]}"), name)
