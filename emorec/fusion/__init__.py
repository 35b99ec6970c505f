"""Fusions: one vector for each utterance from its available modalities."""
