"""Extraction by two workers against extraction by one, each with one thread."""

import multiprocessing
import os
import time
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import UtteranceEncoder
from emorec.features.extraction import extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.machine import usable_cores
from emorec.media.source import Source
from emorec.storage.digests import FileDigests
from tests.benchmarks.figure import Figure, interleaved

SPAWN = multiprocessing.get_context("spawn")
STEPS = 300_000  # of a loop in Python: some 10 ms


class Busy(UtteranceEncoder):
    """Keeps one core busy for some time for each text."""

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    @property
    def dim(self) -> int:
        return 8

    def settings(self) -> dict[str, Any]:
        return {}

    def features(self, source: Source) -> NDArray[np.float32]:
        assert source.text is not None
        number = 0
        for step in range(STEPS):
            number += step
        return np.full((1, 8), number % 1000 + len(source.text), np.float32)


def _work(barrier: Any, cache: Path, texts: int, times: Any) -> None:
    torch.set_num_threads(1)
    encoder = Busy()
    store = FeatureStore(cache, FeatureSpec(**encoder.spec()), FileDigests())
    sources: dict[str, Source | None] = {
        f"{number}": Source(modality="text", text=f"text {number}") for number in range(texts)
    }
    barrier.wait()
    started = time.monotonic()
    report = extract(store, encoder, sources, ExtractionConfig(device="cpu", workers=1, progress=False))
    times.put((started, time.monotonic(), report.computed))


def two_workers(root: Path, *, texts: int = 800, rounds: int = 3) -> Figure:
    """How many times as fast two workers are as one, without the time in which they start."""
    name, goal = "extraction_two_workers", ">= 1.8"
    if usable_cores() < 2:
        return Figure(name, None, "ratio", goal, "this machine has one core")
    number = count()

    def extraction(workers: int) -> float:
        barrier, times = SPAWN.Barrier(workers), SPAWN.Queue()
        arguments = (barrier, root / f"{next(number)}", texts, times)
        processes = [SPAWN.Process(target=_work, args=arguments) for _ in range(workers)]
        for process in processes:
            process.start()
        started, ended, computed = zip(*(times.get(timeout=600) for _ in processes), strict=True)
        for process in processes:
            process.join()
        assert sum(computed) == texts
        return float(max(ended) - min(started))

    two, one = interleaved(lambda: extraction(2), lambda: extraction(1), rounds=rounds)
    note = f"{texts / two:.1f} texts a second against {texts / one:.1f}; load {os.getloadavg()[0]:.1f}"
    return Figure(name, one / two, "ratio", goal, note)
