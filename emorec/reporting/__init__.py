"""Comparing finished runs: groups, tables and figures."""
