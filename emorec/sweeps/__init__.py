"""Multiruns: which jobs a command line stands for, and what became of each."""
