"""The suite. Each of its workers has one core: said here, before anything imports a numerical library."""

import os
import sys

from emorec.machine import ONE_THREAD

if "pytest" in sys.modules:  # benchmarks have all cores
    for _name, _value in ONE_THREAD.items():
        os.environ.setdefault(_name, _value)
