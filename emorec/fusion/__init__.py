"""Fusions: each makes one vector an utterance of the modalities that are there."""
