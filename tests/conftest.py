"""Fixtures: small real media, a small demo corpus, and the command line in this process or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from emorec.datasets.demo import VERSION, make_corpus

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("EMOREC_DATA", REPOSITORY.parent / "shared" / "data"))


def tone(seconds: float, rate: int = 16_000, pitch: float = 220.0, level: float = 0.3) -> NDArray[np.float32]:
    """A sine, (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


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
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty EMOREC_ROOT."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setenv("EMOREC_ROOT", str(folder))
    return folder


@pytest.fixture
def train_overrides(small_demo: Path) -> list[str]:
    """Overrides of a training that takes a moment."""
    return [f"dataset.root={small_demo}", "trainer.max_epochs=3", "model.hidden=16", "batch_size=8"]


def emorec_process(*words: str, root: Path, **options: object) -> subprocess.Popen[str]:
    """Starts `python -m emorec …` as a process of its own."""
    environment = {**os.environ, "EMOREC_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "emorec", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        **options,  # type: ignore[call-overload]
    )
