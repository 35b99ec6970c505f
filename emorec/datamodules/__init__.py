"""Batches of utterances in an order that depends on seed and epoch alone."""
