"""A time limit for each test, processes that end with it, and features that are computed from their source alone."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emorec.config.schema import ExtractionConfig, FeaturesConfig
from emorec.encoders.encoder import UtteranceEncoder
from emorec.features.extraction import ExtractionReport, extract
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.media.source import Source
from emorec.storage.claims import Holder, this_process
from emorec.storage.digests import FileDigests

LIMIT = 600  # seconds per test
FORK = multiprocessing.get_context("fork")  # child processes need no imports


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """Ends a test that hangs."""

    def stop(*_: object) -> None:
        pytest.fail("the test took too long")  # no `OSError`, which the code under test may take for one of a file

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _work(work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT)  # the process ends even if its parent was killed
    torch.set_num_threads(1)
    work(*arguments)


class Crew:
    """Processes forked from this one."""

    def __init__(self) -> None:
        self.members: list[BaseProcess] = []

    def start(self, work: Callable[..., object], *arguments: Any) -> BaseProcess:
        process = FORK.Process(target=_work, args=(work, arguments), daemon=True)
        process.start()
        self.members.append(process)
        return process

    def kill(self, process: BaseProcess) -> None:
        """Sends SIGKILL and waits for the end of the process."""
        process.kill()
        process.join()
        self.members.remove(process)

    def finish(self) -> None:
        """Waits for all processes and checks that they ended with exit code 0."""
        for process in self.members:
            process.join()
        assert [process.exitcode for process in self.members] == [0] * len(self.members)
        self.members.clear()


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Starts processes; those that are still running at the end of the test are killed."""
    members = Crew()
    yield members
    for process in list(members.members):
        members.kill(process)


def append_line(path: Path, text: str) -> None:
    """Appends a line to a file that several processes append to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def lines(path: Path) -> list[str]:
    """The lines of a file that `append_line` wrote."""
    return path.read_text().splitlines() if path.exists() else []


class Noise(UtteranceEncoder):
    """Returns values that depend on the text only.

    Args:
        dim: dimension of the values.
        journal: file with a line for each computed text.
        pause: seconds per text.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    def __init__(self, *, dim: int = 16, journal: Path | None = None, pause: float = 0.0) -> None:
        super().__init__()
        self._dim, self.journal, self.pause = dim, journal, pause

    @property
    def dim(self) -> int:
        return self._dim

    def settings(self) -> dict[str, Any]:
        return {"processor": {"dim": self.dim}}

    def features(self, source: Source) -> NDArray[np.float32]:
        assert source.text is not None
        if self.journal is not None:
            append_line(self.journal, source.text)
        time.sleep(self.pause)
        return noise(source.text.encode(), self.dim)


class Unloadable(Noise):
    """Fails where features are computed."""

    def load(self) -> None:
        raise AssertionError("the encoder was loaded")


Unloadable.__name__ = "Noise"  # the spec contains the name of the class


def noise(seed: bytes, dim: int) -> NDArray[np.float32]:
    """Values (T, dim) that depend on the seed only, with T from 1 to 5."""
    generator = np.random.default_rng(list(hashlib.sha256(seed).digest()))
    return generator.normal(size=(int(generator.integers(1, 6)), dim)).astype(np.float32)


def texts(count: int) -> dict[str, Source | None]:
    """Sources for `Noise`."""
    return {f"text{number}": Source(modality="text", text=f"text {number}") for number in range(count)}


def open_store(cache: Path, encoder: UtteranceEncoder) -> FeatureStore:
    """A store without stored digests."""
    return FeatureStore(cache, FeatureSpec(**encoder.spec()), FileDigests())


def run_extraction(
    cache: Path, encoder: UtteranceEncoder, sources: dict[str, Source | None], **settings: Any
) -> tuple[FeatureStore, ExtractionReport]:
    store = open_store(cache, encoder)
    return store, extract(store, encoder, sources, ExtractionConfig(device="cpu", **settings))


def wrong_features(store: FeatureStore, encoder: Noise, sources: dict[str, Source | None]) -> int:
    """The number of sources with missing features, or with others than `encoder` computes."""
    names = [source.text for source in sources.values() if source is not None and source.text is not None]
    keys = [bytes.fromhex(source.key(FileDigests().digest)) for source in sources.values() if source is not None]
    reader = store.reader(keys, FeaturesConfig(preload="none"))
    wrong = 0
    for index, text in enumerate(names):
        values, mask = reader.gather(torch.tensor([index]))
        wrong += not np.array_equal(values[0][mask[0]].numpy(), noise(text.encode(), encoder.dim))
    return wrong


def dead_holder(crew: Crew) -> Holder:
    """The holder of a claim whose process on this host was killed."""
    process = crew.start(time.sleep, LIMIT)
    pid = process.pid
    assert pid is not None
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    crew.kill(process)
    return replace(this_process(), pid=pid, started=started)


def elsewhere() -> Holder:
    """The holder of a claim on another host."""
    return replace(this_process(), host="elsewhere", boot="another", pid=1, started="1")


def plant_claim(path: Path, holder: Holder) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(holder)))


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders at any depth."""
    return [path.name for path in folder.rglob("*.tmp")]
