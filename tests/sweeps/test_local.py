"""Jobs in processes of their own, here small programs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emorec.sweeps.launcher import Task, launch
from emorec.sweeps.local import LocalLauncher, usable_gpus
from emorec.sweeps.record import JobRecord
from emorec.sweeps.stop import Stop

pytestmark = pytest.mark.slow

REPORT = "import json, os; json.dump({'status': 'finished', 'run_id': 'abc'}, open(os.environ['EMOREC_JOB'], 'w'));"
SLEEP = "import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def arguments_are_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments of a task are a whole command here, so that jobs can be small programs."""
    monkeypatch.setattr("emorec.sweeps.process.fresh_command", list)


def tasks_of(folder: Path, *programs: str, devices: int = 1) -> list[Task]:
    return [
        Task(JobRecord(number, []), (sys.executable, "-c", program), folder, devices=devices)
        for number, program in enumerate(programs, 1)
    ]


def run(launcher: LocalLauncher, tasks: list[Task]) -> list[JobRecord]:
    with Stop() as stop:
        launch(launcher, tasks, stop)
    return [task.record for task in tasks]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


def test_one_job_never_takes_another_with_it(tmp_path: Path) -> None:
    kill = "import os; os.kill(os.getpid(), 9)"
    jobs = run(LocalLauncher(slots=2), tasks_of(tmp_path, REPORT, "raise SystemExit(3)", kill, REPORT))
    assert [job.status for job in jobs] == ["finished", "failed", "failed", "finished"]
    assert [job.exit_code for job in jobs] == [0, 3, -9, 0]
    assert jobs[0].run_id == "abc"
    assert "SIGKILL" in str(jobs[2].error)


def test_a_job_that_hangs_is_ended_at_its_timeout_and_the_others_finish(tmp_path: Path) -> None:
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    started = time.monotonic()
    jobs = run(LocalLauncher(slots=2, timeout=2.0, grace=0.5), tasks_of(tmp_path, deaf, SLEEP, REPORT))
    assert time.monotonic() - started < 120  # they would sleep for 600 seconds
    assert [job.status for job in jobs] == ["failed", "failed", "finished"]
    assert "launcher.timeout" in str(jobs[0].error)
    assert jobs[0].exit_code == -signal.SIGKILL


def test_what_a_job_leaves_behind_is_killed(tmp_path: Path) -> None:
    leave = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{SLEEP}']).pid);"
    (task,) = tasks_of(tmp_path, leave + REPORT)
    (job,) = run(LocalLauncher(slots=1), [task])
    assert job.status == "finished"
    wait_until(lambda: not is_alive(int(task.log.read_text())))


def test_slots_are_never_exceeded(tmp_path: Path) -> None:
    jobs = run(LocalLauncher(slots=2), tasks_of(tmp_path, *[f"import time; time.sleep(0.2); {REPORT}"] * 6))
    spans = [(job.started, job.ended) for job in jobs]
    assert all(start is not None and end is not None for start, end in spans)
    for moment in [start for start, _ in spans]:
        assert sum(str(start) <= str(moment) < str(end) for start, end in spans) <= 2


def test_a_gpu_belongs_to_one_job_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']);"
    tasks = tasks_of(tmp_path, *[told + "import time; time.sleep(0.2);" + REPORT] * 3, devices=2)
    launcher = LocalLauncher(slots=4, gpus=["0", "1", "2", "3"], cores=9)
    jobs = run(launcher, tasks)
    pairs = [tuple(task.log.read_text().split()) for task in tasks]
    assert pairs[:2] == [("0,1", "2"), ("2,3", "2")]
    assert str(jobs[2].started) >= min(str(jobs[0].ended), str(jobs[1].ended))
    (cpu_only,) = tasks_of(tmp_path, "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))")
    run(launcher, [Task(cpu_only.record, cpu_only.arguments, tmp_path / "cpu", on_gpu=False)])
    assert (tmp_path / "cpu" / "logs" / "1.txt").read_text().strip() == "''"


def test_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    (task,) = tasks_of(tmp_path, REPORT, devices=2)
    assert "at most 1" in str(LocalLauncher(slots=1, gpus=["0"]).refusal(task))
    assert LocalLauncher(slots=1).refusal(task) is None  # on CPU the devices are processes


def test_the_environment_may_name_some_gpus_only() -> None:
    assert usable_gpus(2, {}) == ("0", "1")
    assert usable_gpus(2, {"CUDA_VISIBLE_DEVICES": "3,GPU-5ab"}) == ("3", "GPU-5ab")
    assert usable_gpus(0, {"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert usable_gpus(1, {"CUDA_VISIBLE_DEVICES": "MIG-1a,MIG-2b"}) == ("MIG-1a", "MIG-2b")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_lets_jobs_save_and_starts_no_more(tmp_path: Path, number: signal.Signals, code: int) -> None:
    saves = (
        "import signal, sys, time\n"
        "def save(*_):\n    print('saved', flush=True)\n    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    tasks = tasks_of(tmp_path, saves, REPORT)

    def interrupt() -> None:
        wait_until(lambda: tasks[0].log.is_file() and "ready" in tasks[0].log.read_text())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with Stop() as stop:
        launch(LocalLauncher(slots=1), tasks, stop)
    thread.join()
    assert stop.exit_code == code
    assert [task.record.status for task in tasks] == ["interrupted", "interrupted"]
    assert "saved" in tasks[0].log.read_text()
    assert tasks[1].record.started is None


def test_an_error_of_the_launcher_leaves_no_process_behind(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, f"import os; print(os.getpid(), flush=True); {SLEEP}")
    launcher = LocalLauncher(slots=1, grace=0.5)

    def broken(_: JobRecord) -> None:
        wait_until(lambda: bool(tasks[0].log.read_text()))
        launcher.changed = lambda _: None
        raise RuntimeError("boom")

    launcher.changed = broken
    with pytest.raises(RuntimeError, match="boom"):
        run(launcher, tasks)
    assert not is_alive(int(tasks[0].log.read_text()))


def test_a_job_ends_soon_after_the_sweep_was_killed(tmp_path: Path) -> None:
    job = (
        "import os, time; from emorec.sweeps.report import reporting\n"
        "with reporting():\n    print(os.getpid(), flush=True); time.sleep(600)"
    )
    sweep = (
        "import sys, time; from pathlib import Path; from emorec.sweeps import process\n"
        "process.fresh_command = list\n"
        f"arguments = [sys.executable, '-c', {job!r}]\n"
        "process.JobProcess(arguments, report=None, log=Path('log.txt'), environment={}, grace=1)\n"
        "time.sleep(600)"
    )
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.Popen([sys.executable, "-c", sweep], cwd=tmp_path, env=environment)
    log = tmp_path / "log.txt"
    wait_until(lambda: log.is_file() and log.read_text().strip().isdigit())
    pid = int(log.read_text())
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(pid))


def test_a_report_is_written_however_a_job_ends(tmp_path: Path) -> None:
    report = "from emorec.sweeps.report import reporting\nwith reporting() as report:\n    "
    ends = ["report.succeed(run_id='abc', status='finished', metrics={})", "raise ValueError('boom')"]
    ends += ["raise KeyboardInterrupt", "import os; assert 'EMOREC_JOB' not in os.environ; raise SystemExit(4)"]
    jobs = run(LocalLauncher(slots=4), tasks_of(tmp_path, *[report + end for end in ends]))
    assert [job.status for job in jobs] == ["finished", "failed", "interrupted", "failed"]
    assert [job.error for job in jobs][1] == "ValueError: boom"
    assert json.loads((tmp_path / "jobs" / "4.json").read_text())["error"] == "SystemExit: 4"


def test_a_job_that_cannot_be_started_fails_alone(tmp_path: Path) -> None:
    broken, fine = tasks_of(tmp_path, "", REPORT)
    broken = Task(broken.record, (str(tmp_path / "no_such_program"),), tmp_path)
    jobs = run(LocalLauncher(slots=1), [broken, fine])
    assert [job.status for job in jobs] == ["failed", "finished"]
    assert "no_such_program" in str(jobs[0].error)
