"""Metrics: pure functions, tested against scikit-learn, under thin `torchmetrics.Metric` classes."""
