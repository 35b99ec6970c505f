"""The record of a sweep."""

import json
import os
import threading
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from emorec.errors import UserError
from emorec.storage.atomic import write_json
from emorec.storage.claims import read_holder, this_process
from emorec.sweeps.display import Display, job_cells, summary
from emorec.sweeps.launcher import status_of
from emorec.sweeps.record import JobRecord, SweepRecord, all_sweeps, read_sweep
from emorec.sweeps.report import JobReport


def sweep_of(folder: Path, *statuses: str) -> SweepRecord:
    jobs = [JobRecord(number, [f"seed={number}"], status=status) for number, status in enumerate(statuses, 1)]
    return SweepRecord(folder, folder.name, "local", jobs)


def test_a_sweep_that_runs_is_read_as_it_is_and_a_killed_one_as_interrupted(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "one", "finished", "running", "waiting")
    with sweep.claim(60):
        sweep.write()
        assert read_sweep(sweep.folder) == sweep
    assert [job.status for job in read_sweep(sweep.folder).jobs] == ["finished", "interrupted", "interrupted"]


def test_a_name_is_used_by_one_sweep_at_a_time(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "one", "waiting")
    with sweep.claim(60), pytest.raises(UserError, match=r"sweep\.name"):
        sweep.claim(60)


def test_a_broken_record_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep_of(tmp_path / "good", "finished").write()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sweep.json").write_text(json.dumps({"name": "bad"}))
    assert [sweep.name for sweep in all_sweeps(tmp_path)] == ["good"]
    assert "bad/sweep.json" in caplog.text
    with pytest.raises(UserError, match=r"nothing/sweep\.json"):
        read_sweep(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("finished", "skipped"), 0),
        (("finished", "failed", "interrupted"), 1),
        (("invalid",), 1),
        (("finished", "interrupted"), 75),
    ],
)
def test_a_sweep_ends_with_1_if_a_job_failed(tmp_path: Path, statuses: tuple[str, ...], code: int) -> None:
    assert sweep_of(tmp_path, *statuses).exit_code == code


FINISHED = JobReport("finished", "abc")
FAILED = JobReport("failed", error="ValueError: boom")


@pytest.mark.parametrize(
    ("report", "code", "stopped", "reason", "wanted"),
    [
        (FINISHED, 0, False, None, ("finished", None)),
        (FINISHED, -15, True, None, ("finished", None)),
        (FAILED, 1, False, None, ("failed", "ValueError: boom")),
        (FAILED, 1, True, None, ("interrupted", None)),
        (None, -9, False, None, ("failed", "killed by signal 9 (SIGKILL)")),
        (None, -9, False, "too late", ("failed", "too late")),
        (None, 3, False, None, ("failed", "ended with exit code 3 and without a report")),
        (None, 75, False, None, ("interrupted", None)),
        (JobReport("interrupted", error="SIGTERM"), 75, False, None, ("interrupted", "SIGTERM")),
        (JobReport("interrupted", error="SIGTERM"), 75, False, "too late", ("failed", "too late")),
        (None, -15, True, None, ("interrupted", None)),
    ],
)
def test_the_status_of_a_job_follows_from_its_report_and_its_exit_code(
    report: JobReport | None, code: int, stopped: bool, reason: str | None, wanted: tuple[str, str | None]
) -> None:
    assert status_of(report, code, stopped=stopped, reason=reason) == wanted


def test_a_table_has_a_column_for_each_metric_and_a_summary() -> None:
    jobs = [JobRecord(1, ["seed=0", "x=1"], "finished", metrics={"val/uar": 0.5}), JobRecord(2, ["seed=1", "x=1"])]
    headers, rows = job_cells(jobs)
    assert headers[-1] == "val/uar"
    assert [row[1] for row in rows] == ["seed=0", "seed=1"]
    assert [row[-1] for row in rows] == ["0.5000", ""]
    assert summary(jobs) == "1 finished, 1 waiting"


def test_the_live_table_shows_what_runs_and_what_has_ended() -> None:
    ended = JobRecord(1, ["seed=0", "tags=[a]"], "finished", run_id="0123456789ab", ended="now")
    jobs = [ended, JobRecord(2, ["seed=1", "tags=[b]"], "running"), JobRecord(3, ["seed=2", "tags=[c]"])]
    screen = StringIO()
    Console(file=screen, width=80).print(Display(jobs, live=True)._table())
    shown = screen.getvalue()
    assert "0123456789ab" in shown
    assert "tags=[b]" in shown
    assert "tags=[c]" not in shown
    assert "1 finished, 1 running, 1 waiting" in shown


@pytest.mark.parametrize("place", [{"host": "elsewhere", "boot": "another"}, {"namespace": "pid:[1]"}], ids=list)
def test_a_sweep_that_is_not_seen_is_taken_over_once_it_shows_no_sign_of_life(
    tmp_path: Path, place: dict[str, str]
) -> None:
    sweep = sweep_of(tmp_path / "one", "waiting")
    sweep.folder.mkdir()
    claim = sweep.folder / "sweep.claim"
    write_json(claim, asdict(replace(this_process(), **place)))
    with sweep.claim(0.5):
        assert str(read_holder(claim)) == str(this_process())
    write_json(claim, asdict(replace(this_process(), **place)))
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            os.utime(claim)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"which process .* on .* runs"):
            sweep.claim(60)
    finally:
        stop.set()
        thread.join()


def test_a_sweep_goes_on_from_its_record(tmp_path: Path) -> None:
    before = sweep_of(tmp_path / "one", "finished", "failed", "finished")
    before.jobs[0].seconds, before.jobs[0].log, before.jobs[0].run_id = 7.0, "logs/1.txt", "abc"
    before.jobs[1].seconds, before.jobs[1].error = 3.0, "boom"
    before.write()
    jobs = [JobRecord(number, [f"seed={seed}"]) for number, seed in enumerate((5, 2, 1), 1)]
    sweep = SweepRecord(before.folder, "one", "local", jobs)
    sweep.resume()
    assert [(job.number, job.status) for job in sweep.jobs] == [(4, "waiting"), (2, "waiting"), (1, "finished")]
    assert (jobs[2].seconds, jobs[2].log, jobs[2].run_id) == (7.0, "logs/1.txt", "abc")
    assert (jobs[1].seconds, jobs[1].error) == (0.0, None)
    assert [job.number for job in sweep.others] == [3]
    sweep.write()
    assert [job.number for job in read_sweep(sweep.folder).all_jobs] == [1, 2, 3, 4]
    assert sweep.exit_code == 0
