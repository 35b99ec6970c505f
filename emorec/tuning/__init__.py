"""Studies: a search for the config that is best on validation."""
