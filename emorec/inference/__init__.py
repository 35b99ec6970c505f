"""Uses trained runs."""
