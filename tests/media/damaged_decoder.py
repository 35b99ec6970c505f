"""Decoders that fail within a library, at clips of certain names, in all decoding processes that are started later."""

import os
from pathlib import Path

import pytest

from emorec.media import decoding_process
from tests.conftest import REPOSITORY

# Python runs a `sitecustomize` on its path when it starts
DAMAGED = """
import ctypes, os, signal
import numpy, soundfile

library = ctypes.PyDLL(None)  # its calls keep Python's lock
whole, armed = soundfile.SoundFile, []

def damaged(file):
    name = os.fsdecode(os.path.basename(file)).split(".")[0]
    if name == "segfault" or armed:
        ctypes.string_at(0)
    elif name == "damages":
        armed.append(True)
    elif name == "abort":
        library.abort()
    elif name == "exit":
        os._exit(3)
    elif name == "error":
        raise LookupError("an error that no decoder should raise")
    elif name == "hang":
        with open(os.fsdecode(file) + ".pid", "w") as stream:
            stream.write(f"{os.getpid()} ")
        library.sleep(1000)
    elif name == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif name == "large":
        numpy.empty(3_000_000_000, numpy.uint8)
    return whole(file)

soundfile.SoundFile = damaged
"""


def damage_decoders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damages libsndfile in all processes that are started while `monkeypatch` holds; `folder` is on their path."""
    (folder / "sitecustomize.py").write_text(DAMAGED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(REPOSITORY)]))
    monkeypatch.setattr(decoding_process, "_kept", decoding_process._Kept())
