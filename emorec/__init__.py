"""Experiment suite for emotion recognition from text, audio and video."""

__version__ = "0.1.0"
