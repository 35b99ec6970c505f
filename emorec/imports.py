"""Imports without the garbage collector, which would take a fifth of the time of a start."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


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
        _freeze()
        if was_on:
            gc.enable()


@cache
def _freeze() -> None:
    """Freezes what there is, once; asking the collector whether something is frozen takes as long as counting it."""
    gc.freeze()
