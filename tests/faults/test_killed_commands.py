"""SIGKILL of an extraction and of a training at any moment: the same command ends with the bytes of one left alone.

`tests/sweeps/test_kills.py` does the same to the processes of a sweep.
"""

import csv
import json
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from emorec.features.maintenance import spec_of
from emorec.features.store import FeatureStore
from emorec.storage.digests import FileDigests
from tests.conftest import emorec_process

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("EMOREC_KILL_ROUNDS", "1"))  # of three kills each
KILLS, TIMEOUT = 3, 300  # seconds after which a process is taken to hang
WORDS = {
    "extract": ["extraction.batch_size=2", "extraction.workers=1", "encoder.video.media.frames=16"],
    "train": ["model.hidden=16", "batch_size=8", "trainer.max_epochs=50", "trainer.patience=null"],
}
WORDS["extract"].append("extraction.every_seconds=0")
WORDS["train"].append("checkpoint.every_seconds=0")
WRITES = {"extract": "cache/*/*.safetensors", "train": "checkpoints/*/resume/*-*.ckpt"}  # again and again
GOES_ON = {"extract": r"features: [1-9]\d* found", "train": "resuming from"}  # says the log of the next start


def finish(words: list[str], root: Path) -> str:
    """Runs a command to its end and returns what it has logged."""
    process = emorec_process(*words, root=root)
    error = process.communicate(timeout=TIMEOUT)[1]
    assert process.returncode == 0, error
    return error


def kill(words: list[str], root: Path, pattern: str, delay: float) -> None:
    """Starts a command and kills it some seconds after it has written a file that was not there before."""
    before = set(root.glob(pattern))
    process, deadline = emorec_process(*words, root=root), time.monotonic() + TIMEOUT
    while not set(root.glob(pattern)) - before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing was written in time"
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    error = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, f"the command ended before it was killed: {error}"


def features(root: Path) -> dict[str, dict[bytes, tuple[str, bytes]]]:
    """{folder: {key: dtype and bytes of its values}}, each shard verified."""
    found = {}
    for folder in (root / "cache").glob("*-*"):
        spec = spec_of(folder)
        assert spec is not None
        shards = FeatureStore(root / "cache", spec, FileDigests()).shards
        entries = {}
        for shard in shards:
            for key, first, last in zip(shard.keys, shard.offsets[:-1], shard.offsets[1:], strict=True):
                entries[key.tobytes()] = (str(shard.values.dtype), shard.values[first:last].tobytes())
        found[folder.name] = entries
    return found


def run(root: Path) -> dict[str, Any]:
    """What the only run has left, less times."""
    (path,) = root.glob("checkpoints/*/run.json")
    folder, record = path.parent, json.loads(path.read_text())
    rows = [{**row, "seconds": None} for row in csv.DictReader((folder / "history.csv").open())]
    own = {key: record[key] for key in ("run_id", "status", "epochs", "best_epoch", "weights", "features")}
    assert not (folder / "resume").exists()
    files = {name: (folder / name).read_bytes() for name in ("metrics.json", "predictions.parquet", "splits.csv")}
    return {**own, **files, "history": rows, "reads of test": len(record["test_reads"])}


RESULTS = {"extract": features, "train": run}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_demo: Path) -> dict[str, Any]:
    """{command: what it leaves where nobody kills it}."""
    results = {}
    for command, result in RESULTS.items():
        root = tmp_path_factory.mktemp(command)
        finish([command, *WORDS[command], f"dataset.root={small_demo}"], root)
        results[command] = result(root)
    return results


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("command", RESULTS)
def test_a_killed_command_ends_with_the_bytes_of_one_that_was_left_alone(
    tmp_path: Path, small_demo: Path, undisturbed: dict[str, Any], command: str, number: int
) -> None:
    words, delays = [command, *WORDS[command], f"dataset.root={small_demo}"], random.Random(number)
    for _ in range(KILLS):
        kill(words, tmp_path, WRITES[command], delays.uniform(0, 0.15))
    assert re.search(GOES_ON[command], finish(words, tmp_path))
    assert RESULTS[command](tmp_path) == undisturbed[command]
    assert not list(tmp_path.rglob("*.bad"))
