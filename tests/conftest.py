"""Fixtures: small real media, a small demo corpus, and the command line in this process or in one of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from omegaconf import DictConfig

from emorec.config.composition import Composer
from emorec.datasets.demo import VERSION, make_corpus
from emorec.training.processes import ForkedProcess, start_warm_parent

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("EMOREC_DATA", REPOSITORY.parent / "shared" / "data"))


def tone(seconds: float, rate: int = 16_000, pitch: float = 220.0, level: float = 0.3) -> NDArray[np.float32]:
    """A sine, (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


@pytest.fixture(autouse=True)
def shared_choices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What emorec's own files compose to is kept between tests, as a multirun keeps it for its jobs, since composing
    takes as long as a small training. The tests of composing go without."""
    if request.module.__name__ == "tests.config.test_composition":
        return
    compose = Composer._composed

    def composed(self: "Composer[Any]", overrides: Sequence[str]) -> DictConfig:
        if self.line.config_dir is None and not any(word.startswith("hydra.") for word in overrides):
            self = Composer(replace(self.line, multirun=True), self.schema)
            self._chosen = _CHOSEN.setdefault(self.line.config_name, {})
        return compose(self, overrides)

    monkeypatch.setattr(Composer, "_composed", composed)


@pytest.fixture(autouse=True)
def unflushed_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not flushed to disk: only a power cut would tell the difference, and a run waits long for the disk.

    Tests of faults go without, since they kill processes in the middle of that.
    """
    if request.module.__name__.startswith("tests.faults."):
        return
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


_CHOSEN: dict[str, dict[tuple[str, ...], DictConfig]] = {}  # {config: {overrides that choose files: its config}}


@pytest.fixture
def write_sound(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sound file under a name and returns its path."""

    def write(name: str, samples: NDArray[np.float32], rate: int = 16_000, subtype: str | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a demo corpus with 8 speakers and 4 clips each, one of each emotion."""
    root = tmp_path_factory.mktemp("demo_corpus")
    make_corpus(root / f"version_{VERSION}", clips_per_speaker=4)
    return root


@pytest.fixture
def empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_demo: Path) -> Path:
    """An EMOREC_ROOT where only the demo corpus is, with few clips."""
    folder = tmp_path / "root"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "demo").symlink_to(small_demo)
    monkeypatch.setenv("EMOREC_ROOT", str(folder))
    return folder


@pytest.fixture(scope="session")
def demo_features(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the features of the small demo corpus by the default encoders."""
    folder = tmp_path_factory.mktemp("demo_features")
    process = emorec_process("extract", f"dataset.root={small_demo}", root=folder)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    return folder / "cache"


@pytest.fixture
def root(empty_root: Path, demo_features: Path) -> Path:
    """An EMOREC_ROOT where only the demo corpus is, with few clips, and its features."""
    shutil.copytree(demo_features, empty_root / "cache")
    return empty_root


@pytest.fixture
def train_overrides(small_demo: Path) -> list[str]:
    """Overrides of a training that takes a moment."""
    return [f"dataset.root={small_demo}", "trainer.max_epochs=3", "model.hidden=16", "batch_size=8"]


class EmorecProcess:
    """`emorec <words>` in a process forked from a warm parent; offers what tests need of `subprocess.Popen`.

    Args:
        words: of the command line.
        root: `EMOREC_ROOT` and working directory.
        new_session: whether it is the leader of a process group of its own.
    """

    def __init__(self, words: Sequence[str], root: Path, *, new_session: bool = False) -> None:
        _warm_parent()
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  (a pipe could fill up)
        out, err = self._files
        self._process = ForkedProcess(
            words, environment=environment(root), stdout=out, stderr=err, new_session=new_session, folder=root
        )
        self.pid = self._process.pid
        self.poll, self.wait = self._process.poll, self._process.wait
        self.send_signal, self.kill = self._process.send_signal, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end of the process; returns what it has printed and logged."""
        self.wait(timeout)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return texts[0], texts[1]


@cache
def _warm_parent() -> None:
    """Starts the warm parent of this test process, without what the first test that needs it has set."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("EMOREC_")}
    start_warm_parent()
    os.environ.update(kept)


def run_ranks(work: Callable[..., None], *arguments: object, ranks: int = 2) -> None:
    """Calls `work(rank, *arguments)` of a test module in forked processes, and waits for their end."""
    from torch import multiprocessing

    _warm_parent()
    multiprocessing.start_processes(work, arguments, nprocs=ranks, start_method="forkserver")


def environment(root: Path) -> dict[str, str]:
    """The environment of a process of emorec."""
    return {**os.environ, "EMOREC_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def emorec_process(*words: str, root: Path, start_new_session: bool = False) -> EmorecProcess:
    """Starts `emorec …` as a process of its own, forked from a warm parent."""
    return EmorecProcess(words, root, new_session=start_new_session)


def fresh_emorec_process(*words: str, root: Path, **options: object) -> subprocess.Popen[str]:
    """Starts `python -m emorec …`, for claims about a fresh interpreter."""
    return subprocess.Popen(
        [sys.executable, "-m", "emorec", *words],
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        **options,  # type: ignore[call-overload]
    )


def processes_of(root: Path) -> list[int]:
    """The processes that work in a folder, or with it as `EMOREC_ROOT`, but for this one."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            started_for = f"EMOREC_ROOT={root}".encode() in (folder / "environ").read_bytes()
            is_zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            works_here = (folder / "cwd").readlink() == root
        except OSError:
            continue  # it has ended, or is another user's
        if (started_for or works_here) and not is_zombie and folder.name != str(os.getpid()):
            processes.append(int(folder.name))
    return processes
