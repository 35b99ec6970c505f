"""Experiment suite for emotion recognition from text, audio and video."""

import time

__version__ = "0.1.0"
STARTED = time.monotonic()  # of this process, nearly
