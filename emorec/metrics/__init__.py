"""Metrics: a functional core on confusion matrices, tested against scikit-learn."""
