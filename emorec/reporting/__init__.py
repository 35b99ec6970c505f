"""Reports of finished runs: groups, tables and figures."""
