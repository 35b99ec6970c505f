"""Sweeps of real processes: jobs that raise, die, hang or are stopped, and what the same command makes of it."""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emorec.cli import main
from emorec.errors import Preempted
from tests.conftest import emorec_process, processes_of
from tests.faults.conftest import lines
from tests.sweeps.faulty_loss import FaultyCrossEntropy
from tests.sweeps.journaled_corpus import JournaledDemo

pytestmark = pytest.mark.slow

WORDS = [("happy", 1), ("sad", 2), ("happy", 3), ("sad", 4)]
LOCAL = ["launcher=local", "launcher.slots=2"]
TIMEOUT = 600  # seconds after which a process is taken to hang


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that choose a loss of a lab's own, which fails as `loss.fault` says."""
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    target = f"{FaultyCrossEntropy.__module__}.{FaultyCrossEntropy.__qualname__}"
    (tmp_path / "conf" / "loss" / "faulty.yaml").write_text(f"_target_: {target}\nfault: none\n")
    monkeypatch.setenv("EMOREC_TRUST", FaultyCrossEntropy.__module__)
    return ["--config-dir", str(tmp_path / "conf"), "loss=faulty"]


@pytest.fixture
def words(small_demo: Path) -> list[str]:
    """A multirun of jobs that take a moment."""
    quick = ["trainer.max_epochs=1", "model.hidden=8", "encoder/audio=none", "encoder/video=none"]
    return ["train", "-m", f"dataset.root={small_demo}", *quick]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def sweeps(root: Path) -> list[dict[str, Any]]:
    """The records of all sweeps, oldest first."""
    found = [json.loads(path.read_text()) for path in root.glob("checkpoints/sweeps/*/sweep.json")]
    return sorted(found, key=lambda sweep: str(sweep["started"]))


def statuses(sweep: dict[str, Any]) -> Counter[str]:
    return Counter(job["status"] for job in sweep["jobs"])


def runs(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in root.glob("checkpoints/*/run.json")]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)


def test_a_job_that_raises_and_one_that_is_killed_take_no_other_with_them(
    root: Path, words: list[str], faulty: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, *LOCAL, *faulty, "loss.fault=a,raise,b,kill,c,d,e,f"]
    code, out, err = finish(emorec_process(*words, root=root))
    assert code == 1, err
    assert "6 of 8 jobs have a result" in out
    (first,) = sweeps(root)
    assert statuses(first) == {"finished": 6, "failed": 2}
    raised, killed = first["jobs"][1], first["jobs"][3]
    assert raised["error"] == "ValueError: boom"
    assert killed["error"] == "killed by signal 9 (SIGKILL)"
    folder = root / "checkpoints" / "sweeps" / first["name"]
    assert "boom" in (folder / raised["log"]).read_text()
    assert "test/uar" in first["jobs"][0]["metrics"]
    for job in first["jobs"]:
        assert sum(other["started"] <= job["started"] < other["ended"] for other in first["jobs"]) <= 2

    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 1
    assert "2 of 8 jobs are to be run" in err
    second = sweeps(root)[1]
    assert [job["number"] for job in second["jobs"] if job["started"] is not None] == [2, 4]
    assert statuses(second) == {"finished": 6, "failed": 2}
    assert Counter(run["attempts"] for run in runs(root)) == {1: 6, 2: 2}

    assert main(["runs", "ls", "--sweep", first["name"]]) == 0
    assert "6 finished, 2 failed" in capsys.readouterr().out
    assert main(["runs", "sweeps", "--json"]) == 0
    assert [sweep["name"] for sweep in json.loads(capsys.readouterr().out)] == [first["name"], second["name"]]


def test_forked_jobs_train_on_the_corpus_that_the_sweep_has_read(
    root: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    target = f"{JournaledDemo.__module__}.{JournaledDemo.__qualname__}"
    journal = tmp_path / "journal"
    settings = f"_target_: {target}\njournal: {journal}\nroot: data\ntask: emotion\nprotocol: official\n"
    (tmp_path / "conf" / "dataset" / "journaled.yaml").write_text(settings)
    monkeypatch.setenv("EMOREC_TRUST", JournaledDemo.__module__)
    words = [*words, *LOCAL, "--config-dir", str(tmp_path / "conf"), "dataset=journaled"]
    for start, seeds, reads in (("fork", "0,1", 1), ("spawn", "2", 1 + 2)):
        code, _, err = finish(emorec_process(*words, f"launcher.start={start}", f"seed={seeds}", root=root))
        assert code == 0, err
        assert len(lines(journal)) == reads
    assert all("test/uar" in job["metrics"] for sweep in sweeps(root) for job in sweep["jobs"])


def test_an_invalid_job_is_reported_and_a_repeated_one_runs_once(root: Path, words: list[str]) -> None:
    code, out, err = finish(emorec_process(*words, *LOCAL, "seed=0,-1,0", root=root))
    assert code == 1, err
    assert "seed: expected a whole number" in out
    (sweep,) = sweeps(root)
    assert [job["status"] for job in sweep["jobs"]] == ["finished", "invalid", "finished"]
    assert sweep["jobs"][2]["same_as"] == 1
    assert sweep["jobs"][2]["started"] is None
    (run,) = runs(root)
    assert run["attempts"] == 1


def test_five_sweeps_at_once_make_five_folders(root: Path, words: list[str]) -> None:
    processes = [emorec_process(*words, root=root) for _ in range(5)]
    outcomes = [finish(process) for process in processes]
    assert [code for code, _, _ in outcomes] == [0] * 5, outcomes
    assert len(sweeps(root)) == 5
    (run,) = runs(root)
    assert run["attempts"] == 1


@pytest.mark.parametrize("launcher", [LOCAL, ["launcher=basic"]], ids=("local", "basic"))
def test_a_named_sweep_keeps_what_earlier_starts_knew(
    root: Path, words: list[str], launcher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, *launcher, "sweep.name=evening"]
    assert finish(emorec_process(*words, "seed=0,1", root=root))[0] == 0
    (first,) = sweeps(root)
    assert finish(emorec_process(*words, "seed=0,1", root=root))[0] == 0
    (second,) = sweeps(root)
    assert second["jobs"] == first["jobs"]
    assert all(job["seconds"] > 0 for job in second["jobs"])
    folder = root / "checkpoints" / "sweeps" / "evening"
    assert all(f"run {job['run_id']}" in (folder / job["log"]).read_text() for job in second["jobs"])

    assert finish(emorec_process(*words, "seed=2", root=root))[0] == 0
    (third,) = sweeps(root)
    assert [(job["number"], job["status"]) for job in third["jobs"]] == [(3, "finished")]
    assert third["others"] == first["jobs"]
    capsys.readouterr()
    assert main(["runs", "ls", "--sweep", "evening"]) == 0
    assert "3 finished" in capsys.readouterr().out


def test_the_same_run_in_two_stores_is_two_jobs(root: Path, words: list[str]) -> None:
    places = [root / "one", root / "two"]
    where = f"paths.checkpoints={places[0]},{places[1]}"
    code, out, err = finish(emorec_process(*words, *LOCAL, "sweep.name=both", where, root=root))
    assert code == 0, err
    assert "2 of 2 jobs have a result" in out
    assert [len(list(place.glob("*/metrics.json"))) for place in places] == [1, 1]


def test_a_stopped_sweep_and_a_killed_one_go_on(root: Path, words: list[str]) -> None:
    long = ["trainer.max_epochs=150", "trainer.patience=null", "checkpoint.every_seconds=0"]
    words = [*words, *LOCAL, *long, "seed=0,1,2", "launcher.grace=20"]
    process = emorec_process(*words, root=root)
    wait_for(lambda: list(root.glob("checkpoints/*/resume/*-*.ckpt")), process)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130, err
    assert "interrupted" in out
    assert "Traceback" not in err
    assert processes_of(root) == []
    (stopped,) = sweeps(root)
    assert statuses(stopped)["interrupted"] >= 1
    assert set(statuses(stopped)) <= {"interrupted", "finished"}

    process = emorec_process(*words, root=root)
    wait_for(lambda: sum(job["started"] is not None for job in sweeps(root)[-1]["jobs"]) >= 2, process)
    time.sleep(1.0)
    process.kill()
    process.communicate()
    wait_for(lambda: processes_of(root) == [])

    code, out, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    assert "3 of 3 jobs have a result" in out
    assert [run["status"] for run in runs(root)] == ["finished"] * 3
    assert [(run["epochs"], len(run["test_reads"])) for run in runs(root)] == [(150, 1)] * 3
    assert len(list(root.glob("checkpoints/*/metrics.json"))) == 3


def test_all_folds_of_a_protocol_are_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"{speaker}{number},{word} {number},{word},{speaker}" for speaker in "abc" for word, number in WORDS]
    (tmp_path / "table.csv").write_text("\n".join(["id,text,label,speaker", *rows]) + "\n")
    corpus = ["dataset=custom", f"dataset.table={tmp_path / 'table.csv'}", "dataset.protocol=group_k_fold"]
    corpus += ["dataset.folds=3", "encoder/audio=none", "encoder/video=none", "trainer.max_epochs=1"]
    assert main(["train", *corpus, "dataset.fold=all"]) == 2
    assert "-m" in capsys.readouterr().err
    assert main(["train", "-m", *corpus, "dataset.fold=all", "model.hidden=4,8"]) == 0
    (sweep,) = sweeps(root)
    assert statuses(sweep) == {"finished": 6}
    assert Counter(run["fold"] for run in runs(root)) == {0: 2, 1: 2, 2: 2}
    assert len({run["group_id"] for run in runs(root)}) == 2


def test_a_protocol_without_folds_is_one_job(root: Path, train_overrides: list[str]) -> None:
    text = ["encoder/audio=none", "encoder/video=none"]
    assert main(["train", "-m", *train_overrides, *text, "dataset.fold=all", "trainer.max_epochs=1"]) == 0
    (run,) = runs(root)
    assert run["fold"] is None


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Preempted("SIGTERM"), 75)])
def test_a_sweep_in_one_process_says_which_jobs_were_interrupted(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int
) -> None:
    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr("emorec.sweeps.multirun.train", stopped)
    assert main(["train", "-m", *train_overrides, "seed=-1,0,1"]) == code
    (sweep,) = sweeps(root)
    assert [job["status"] for job in sweep["jobs"]] == ["invalid", "interrupted", "interrupted"]


def test_all_invalid_launcher_settings_are_reported_at_once(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["launcher=local", "launcher.slots=0", "launcher.timeout=soon"]
    assert main(["train", "-m", *train_overrides, *bad]) == 2
    message = capsys.readouterr().err
    assert "launcher.slots: expected a whole number of at least 1 or null, got 0" in message
    assert "launcher.timeout: expected a number of at least 0 or null, got 'soon'" in message
    assert main(["train", "-m", *train_overrides, "launcher=basic,local"]) == 2
    assert "one launcher" in capsys.readouterr().err


def test_submitit_runs_jobs_of_which_one_raises(root: Path, words: list[str], faulty: list[str]) -> None:
    pytest.importorskip("submitit")
    words += ["launcher=slurm", "launcher.cluster=local", "launcher.gpus=0", *faulty, "loss.fault=raise,a"]
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 1, err
    (sweep,) = sweeps(root)
    assert [job["status"] for job in sweep["jobs"]] == ["failed", "finished"]
    assert sweep["jobs"][0]["error"] == "ValueError: boom"
    wait_for(lambda: not processes_of(root))  # submitit's own processes end a moment later
