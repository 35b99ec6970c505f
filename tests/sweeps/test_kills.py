"""SIGKILL of jobs, of their warm parent and of the sweep at any moment: no run is lost, doubled or left alive."""

import csv
import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from emorec.storage.leases import is_live
from tests.conftest import EmorecProcess, emorec_process, fresh_emorec_process, processes_of

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("EMOREC_KILL_ROUNDS", "1"))  # of three kills each
JOBS, EPOCHS = 7, 60
LATEST = 0.4  # seconds until a kill: three of them have to come before the last job ends
TIMEOUT = 900  # seconds after which a process is taken to hang
LOCAL = ["launcher=local", "launcher.slots=2", "launcher.start=fork", "launcher.grace=5", "sweep.name=kills"]


@pytest.fixture(scope="module")
def words(small_demo: Path) -> list[str]:
    """A multirun whose jobs take a few seconds and save their state all the time."""
    words = ["train", "-m", f"dataset.root={small_demo}", "encoder/audio=none", "encoder/video=none", "model.hidden=8"]
    words += [f"seed=range({JOBS})", f"trainer.max_epochs={EPOCHS}", "trainer.patience=null", "batch_size=4"]
    return [*words, "checkpoint.every_seconds=0.2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> dict[int, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    finish(emorec_process(*words, "launcher=basic", root=root))
    return runs(root)


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def victims(kind: str, sweep: int) -> list[int]:
    """The processes of a kind that a sweep has now."""
    parents = []
    for pid in children(sweep):
        with suppress(OSError):
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                parents.append(pid)
    jobs = [pid for parent in parents for pid in children(parent)]
    return {"sweep": [sweep], "warm parent": parents, "job": jobs}[kind]


def kill(kind: str, process: subprocess.Popen[str], delay: float) -> None:
    """Kills a process of a kind, some seconds after the sweep has jobs."""
    deadline = time.monotonic() + TIMEOUT
    while not victims("job", process.pid):
        assert process.poll() is None, "the sweep ended before it was killed"
        assert time.monotonic() < deadline, "no job has started in time"
        time.sleep(0.02)
    time.sleep(delay)
    chosen = victims(kind, process.pid)
    if chosen:
        with suppress(ProcessLookupError):
            os.kill(random.choice(chosen), signal.SIGKILL)
    else:
        kill(kind, process, 0.0)


def finish(process: EmorecProcess) -> None:
    error = process.communicate(timeout=TIMEOUT)[1]
    assert process.returncode == 0, error


def wait_until_none_is_left(root: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while left := processes_of(root):
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.1)


def runs(root: Path) -> dict[int, Any]:
    """{seed: what its run has left}."""
    found = {}
    for path in root.glob("checkpoints/*/run.json"):
        record = json.loads(path.read_text())
        assert record["seed"] not in found, "a run was made twice"
        epochs = [int(row["epoch"]) for row in csv.DictReader((path.parent / "history.csv").open())]
        metrics = json.loads((path.parent / "metrics.json").read_text())
        own = {key: record[key] for key in ("status", "weights")}
        found[record["seed"]] = {**own, "epochs": epochs, "metrics": metrics}
    return found


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_sweep_whose_processes_are_killed_ends_with_the_results_of_one_that_was_left_alone(
    tmp_path: Path, words: list[str], undisturbed: dict[int, Any], number: int
) -> None:
    delays = random.Random(number)
    sweep = fresh_emorec_process(*words, *LOCAL, root=tmp_path, start_new_session=True)
    for kind in ("job", "warm parent", "sweep"):
        kill(kind, sweep, delays.uniform(0, LATEST))
    error = sweep.communicate(timeout=TIMEOUT)[1]
    assert sweep.returncode == -signal.SIGKILL, error
    wait_until_none_is_left(tmp_path)

    finish(emorec_process(*words, *LOCAL, root=tmp_path))
    wait_until_none_is_left(tmp_path)
    assert runs(tmp_path) == undisturbed
    assert [result["epochs"] for result in undisturbed.values()] == [list(range(EPOCHS))] * JOBS
    record = json.loads((tmp_path / "checkpoints" / "sweeps" / "kills" / "sweep.json").read_text())
    assert [job["status"] for job in record["jobs"]] == ["finished"] * JOBS
    claims = [*tmp_path.rglob("claim.json"), *tmp_path.rglob("*.claim")]  # of those killed after their last write
    assert not [path for path in claims if is_live(path, time.time())]
