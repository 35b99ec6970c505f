"""Frozen backbones and signal transforms that turn an utterance's media into features."""
