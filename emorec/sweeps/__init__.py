"""Multiruns: the jobs of a command line, how they are run, and their results."""
