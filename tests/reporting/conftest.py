"""A store of runs that were never trained."""

from pathlib import Path

import pytest

from emorec.runs.checkpoint_store import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")
