"""Features of frozen encoders: what identifies them, where they are kept, how they are computed once."""
