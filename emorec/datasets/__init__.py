"""Readers of published and custom corpora. Each returns a manifest of utterances."""
