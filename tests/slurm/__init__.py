"""A check of `launcher=slurm` on a Slurm cluster of one machine; no part of the ordinary suite."""
