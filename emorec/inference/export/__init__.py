"""Exports a run as a folder that needs no emorec."""
