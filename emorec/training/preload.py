"""What the warm parent imports, so that the jobs forked from it need not; see `emorec.training.processes`."""

import importlib
import signal

from emorec.imports import quick_imports

MODULES = (
    "emorec.commands.train",
    "emorec.training.lifecycle",
    "safetensors.torch",
    "pyarrow.parquet",
    "pandas",  # pyarrow imports it for its first table
)

_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the process that started the warm parent
with quick_imports():
    for _name in MODULES:
        importlib.import_module(_name)
signal.signal(signal.SIGINT, _handler)
