"""Corpora as their authors ship them, read into manifests of utterances."""
