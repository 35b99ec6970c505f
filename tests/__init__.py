"""The suite. Each of its workers has one core: said here, before anything imports a numerical library.

Its processes share compiled modules, also where Python is told to write none: each would compile emorec anew.
"""

import os
import sys

from emorec.machine import ONE_THREAD

if "pytest" in sys.modules:  # benchmarks have all cores
    for _name, _value in ONE_THREAD.items():
        os.environ.setdefault(_name, _value)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
