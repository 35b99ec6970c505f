"""Several processes, and processes that are killed: the same command always gets to the same result."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from tests.conftest import emorec_process, environment

pytestmark = pytest.mark.slow

TIMEOUT = 600  # seconds after which a process is taken to hang
LONG = ["trainer.max_epochs=120", "trainer.patience=null", "checkpoint.every_seconds=0"]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits until a condition holds while a process runs."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def results(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and record of the only run under a root."""
    (path,) = (root / "checkpoints").glob("*/run.json")
    return json.loads((path.parent / "metrics.json").read_text()), json.loads(path.read_text())


def test_a_damaged_newest_state_is_reported_and_the_one_before_it_is_used(
    root: Path, train_overrides: list[str]
) -> None:
    words = ["train", *train_overrides, *LONG]
    process = emorec_process(*words, root=root)
    wait_for(lambda: len(list(root.glob("checkpoints/*/resume/*-*.ckpt"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = sorted(root.glob("checkpoints/*/resume/*-*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    assert "is damaged and is not used" in err
    assert "resuming from" in err


def test_ctrl_c_leaves_a_run_that_resumes(root: Path, train_overrides: list[str]) -> None:
    words = ["train", *train_overrides, *LONG]
    process = emorec_process(*words, root=root)
    wait_for(lambda: list(root.glob("checkpoints/*/resume/*-*.ckpt")), process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert json.loads(next(root.glob("checkpoints/*/run.json")).read_text())["status"] == "interrupted"
    assert not list(root.glob("checkpoints/*/claim.json"))
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    assert "resuming from" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_within_the_epoch_and_the_same_command_goes_on_exactly(
    number: signal.Signals, root: Path, train_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *train_overrides, "trainer.max_epochs=30", "trainer.patience=null", "scheduler=warmup_cosine"]
    words += ["logger=none", "batch_size=2", "checkpoint.every_seconds=0.2", "fusion=self_attention"]

    def saved() -> set[str]:
        return {path.name for path in root.glob("checkpoints/*/resume/*-*.ckpt")}

    for _ in range(2):  # interrupted twice
        before = saved()
        process = emorec_process(*words, root=root)
        wait_for(lambda before=before: saved() - before, process)  # type: ignore[misc]
        time.sleep(0.1)
        process.send_signal(number)
        code, _, err = finish(process)
        assert code == 75, err
        assert f"stopped by {number.name}" in err
        assert "Traceback" not in err
        assert json.loads(next(root.glob("checkpoints/*/run.json")).read_text())["status"] == "interrupted"
    assert list(root.glob("checkpoints/*/resume/*-*.ckpt"))
    assert finish(emorec_process(*words, root=root))[0] == 0
    monkeypatch.setenv("EMOREC_ROOT", str(tmp_path / "undisturbed"))
    (tmp_path / "undisturbed").mkdir()
    assert finish(emorec_process(*words, root=tmp_path / "undisturbed"))[0] == 0
    (metrics, record), (wanted, undisturbed) = results(root), results(tmp_path / "undisturbed")
    assert metrics == wanted
    assert record["weights"] == undisturbed["weights"]
    own, other = (next(place.glob("checkpoints/*/history.csv")) for place in (root, tmp_path / "undisturbed"))
    assert without_seconds(own) == without_seconds(other)


def without_seconds(path: Path) -> list[dict[str, str]]:
    """The epochs of a history, without how long they took."""
    with path.open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def test_a_signal_before_training_ends_at_once_with_the_code_for_a_later_start(root: Path, small_demo: Path) -> None:
    process = emorec_process("train", f"dataset.root={small_demo}", "encoder.video.media.frames=16", root=root)
    wait_for(lambda: list(root.glob("cache/*/*.worker.claim")), process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 75, err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["train"], ["train", "-m", "seed=0,1"], ["tune", "study.name=x"]])
def test_a_signal_while_a_command_starts_asks_for_a_later_start(root: Path, small_demo: Path, words: list[str]) -> None:
    process = emorec_process(*words, f"dataset.root={small_demo}", root=root)
    status = Path(f"/proc/{process.pid}/status")
    bit = 1 << (signal.SIGUSR1 - 1)
    wait_for(lambda: int(status.read_text().split("SigCgt:")[1].split()[0], 16) & bit, process)
    process.send_signal(signal.SIGUSR1)
    code, _, err = finish(process)
    assert code == 75, err
    assert err.strip().endswith("the same command resumes")
    assert "Traceback" not in err
    assert not list(root.glob("checkpoints/*/run.json"))


def test_two_processes_that_start_the_same_run_do_it_once(empty_root: Path, train_overrides: list[str]) -> None:
    processes = [emorec_process("train", *train_overrides, root=empty_root) for _ in range(2)]
    outcomes = [finish(process) for process in processes]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert outcomes[0][1] == outcomes[1][1]
    _, record = results(empty_root)
    assert record["attempts"] == 1
    computed = [int(count) for _, _, err in outcomes for count in re.findall(r"(\d+) computed \(", err)]
    assert sum(computed) == 3 * 32  # each clip of each modality once, by either process


def test_on_running_skip_goes_on_without_waiting(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*train_overrides, *LONG]
    process = emorec_process("train", *words, root=root)
    try:
        wait_for(lambda: list(root.glob("checkpoints/*/claim.json")), process)
        process.send_signal(signal.SIGSTOP)  # else it could finish while this process imports
        assert main(["train", *words, "on_running=skip"]) == 0
        assert f"process {process.pid} on {os.uname().nodename}" in capsys.readouterr().out
    finally:
        process.kill()
        process.communicate()


def test_a_process_is_forked_also_where_the_warm_parent_was_just_killed(tmp_path: Path) -> None:
    code = """
import os, signal
from multiprocessing import forkserver
from emorec.training import processes

server, kills = forkserver._forkserver, [1, 2]
ensure_running = server.ensure_running

def run_and_kill():
    ensure_running()
    if kills:
        kills.pop()
        os.kill(server._forkserver_pid, signal.SIGKILL)
        os.waitid(os.P_PID, server._forkserver_pid, os.WEXITED | os.WNOWAIT)

server.ensure_running = run_and_kill  # of a process that is about to be forked
raise SystemExit(processes.ForkedProcess(["--version"], environment=dict(os.environ), stdout=1, stderr=2).wait(600))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("emorec ")
    assert "starting another" in done.stderr
