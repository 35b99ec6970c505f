"""Imports without the garbage collector, which would take a fifth of the time of a start."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Turns the garbage collector off while large libraries are imported.

    What the first block of a process leaves is never looked at again: modules and their functions are no garbage. A
    process that is forked later also keeps sharing their memory.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()
        if was_on:
            gc.enable()
