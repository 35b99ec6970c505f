"""Contexts: each lets the turns of a dialogue inform each other."""
