"""Runs: what identifies one, where it lies, how it resumes and where it came from."""
