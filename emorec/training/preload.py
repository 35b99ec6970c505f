"""What the warm parent imports, so that the jobs forked from it need not; see `emorec.training.processes`."""

import importlib

from emorec.imports import quick_imports

MODULES = ("emorec.commands.train", "emorec.training.lifecycle", "pandas")  # pyarrow imports pandas for its first table

with quick_imports():
    for name in MODULES:
        importlib.import_module(name)
