"""The commands: each composes what the packages offer, and nothing else."""
