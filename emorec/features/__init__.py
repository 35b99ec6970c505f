"""Features of frozen encoders: identity, store and extraction."""
