"""Losses: each takes the model's output and the batch, and returns named scalars."""
