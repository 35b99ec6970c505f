"""Loggers keep all their files in the run's directory, and their failures never end the training."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from emorec.config.instantiation import Component
from emorec.loggers.base import RunLogger
from emorec.loggers.published import confusion_images, published_config, tracking_name
from emorec.loggers.sync import waiting
from emorec.loggers.wandb import WandbLogger
from emorec.runs.checkpoint_store import RunRecord
from tests.loggers.wandb_files import read, wandb_files
from tests.loggers.wandb_server import serving

pytestmark = pytest.mark.slow

RUN = "0123456789ab"
CONFIG = {
    "dataset": {"_target_": "emorec.datasets.demo.Demo", "root": "/home/somebody/corpus", "fold": None},
    "encoder": {"text": {"model": "/home/somebody/models/minilm", "revision": "main"}},
    "optimizer": {"lr": 0.5},
    "seed": 3,
    "sweep": {"name": "the_sweep"},
    "paths": {"root": "/home/somebody"},
    "logger": {"wandb": {"project": "emorec"}},
    "tags": ["first", "second"],
    "notes": "a note",
}
METRICS = {
    "labels": ["calm", "glad"],
    **{"val/uar": 0.75, "val/loss": 0.5, "test/uar": 0.625, "test/loss": 0.6},
    "test/confusion": [[3, 1], [2, 2]],
    "test/per_class": {
        "calm": {"precision": 0.6, "recall": 0.75, "f1": 0.67, "support": 4},
        "glad": {"precision": 0.67, "recall": 0.5, "f1": 0.57, "support": 4},
    },
}
KEY = "ab" * 20


def record(**changes: Any) -> RunRecord:
    values = {"group_id": "ba9876543210", "identity": "f" * 64, "status": "running", "seed": 3, "fold": None}
    values |= {"task": {}, "choices": {}, "overrides": [], "started": "now", "tags": CONFIG["tags"], "notes": "a note"}
    return RunRecord(run_id=RUN, **{**values, **changes})  # type: ignore[arg-type]


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "step": 10 * epoch + 10, "lr": 0.1, "seconds": 1.0, "train/loss": 1.0, "val/uar": epoch / 4}


def log_run(
    logger: RunLogger,
    folder: Path,
    *,
    resumed: Sequence[int] = (),
    epochs: range = range(3),
    status: str = "finished",
    **fields: Any,
) -> None:
    """Passes a whole run to a logger."""
    folder.mkdir(exist_ok=True)
    run = record(**fields)
    try:
        logger.started(run, CONFIG, folder)
        if resumed:
            logger.resumed([row(epoch) for epoch in resumed])
        for epoch in epochs:
            logger.epoch(row(epoch))
        if status == "finished":
            run.best_epoch, run.epochs, run.timings = 2, 3, {"training": 4.0}
            logger.finished(run, METRICS)
    finally:
        logger.closed(status)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / RUN


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working directory that are empty, and nothing of W&B in the environment."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    monkeypatch.chdir(tmp_path / "work")


def offline(**settings: Any) -> WandbLogger:
    return WandbLogger(mode="offline", system_metrics=False, **settings)


# --------------------------------------------------------------------------------------------- what is published


def test_the_published_config_holds_what_defines_the_result_and_no_folders() -> None:
    assert published_config(CONFIG) == {
        "dataset": {"_target_": "emorec.datasets.demo.Demo", "fold": None},
        "encoder": {"text": {"model": "minilm", "revision": "main"}},
        "optimizer": {"lr": 0.5},
        "seed": 3,
    }


def test_the_rows_of_a_confusion_matrix_are_coloured_by_their_shares() -> None:
    counts = {"labels": ["calm", "glad"], "test/confusion": [[4, 0], [1, 1]]}
    ((name, image),) = confusion_images(counts).items()
    assert (name, image.shape[2]) == ("test/confusion", 3)
    blue = image[:, :, 2].astype(int) - image[:, :, 0]
    half = image.shape[0] // 3  # in the row of "calm", where all were right
    left, right = blue[half // 2, : image.shape[1] // 2].max(), blue[half // 2, image.shape[1] // 2 : -60].min()
    assert left > 50 > right
    empty = confusion_images({**counts, "test/confusion": [[0, 0], [0, 0]]})["test/confusion"]
    assert empty.shape == image.shape


# --------------------------------------------------------------------------------------------- W&B, offline


def test_wandb_keeps_identity_config_epochs_results_and_exit_code(folder: Path) -> None:
    log_run(offline(), folder)
    (path,) = wandb_files(folder)
    found = read(path)
    run = found.run
    assert (run["run_id"], run["run_group"], run["job_type"]) == (RUN, "the_sweep", "train")
    assert (run["project"], run["tags"], run["notes"]) == ("emorec", ["first", "second"], "a note")
    assert {key: value for key, value in run["config"]["update"].items() if key != "_wandb"} == published_config(CONFIG)
    assert found.metrics == {"epoch": None, "*": "epoch"}
    assert {epoch: item["val/uar"] for epoch, item in found.history.items()} == {0: 0.0, 1: 0.25, 2: 0.5}
    assert (found.summary["val/uar"], found.summary["test/uar"], found.summary["best_epoch"]) == (0.75, 0.625, 2)
    assert (found.summary["status"], found.summary["run_directory"]) == ("finished", str(folder))
    assert found.summary["test/confusion._type"] == "image-file"
    assert (found.summary["test/per_class._type"], found.summary["test/per_class.nrows"]) == ("table-file", 2)
    assert (path.parent / "files" / found.summary["test/confusion.path"]).stat().st_size > 0
    assert found.exit_code == 0


def test_wandb_writes_to_the_runs_directory_alone_and_leaves_the_process_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", "mine")
    environment, leave, hook = dict(os.environ), sys.exit, sys.excepthook
    log_run(offline(), folder)
    assert dict(os.environ) == environment
    assert (sys.exit, sys.excepthook) == (leave, hook)
    for name in ("home", "work"):
        assert list((tmp_path / name).rglob("*")) == []
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_wandb_gets_no_host_name_command_line_or_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["emorec", "train", "notes=canary_of_the_command_line"])
    monkeypatch.setenv("SOME_VARIABLE", "canary_of_the_environment")
    log_run(offline(), folder)
    (path,) = wandb_files(folder)
    found = read(path)
    assert not {"host", "git", "program"} & set(found.run)
    for trace in (
        b"canary_of",
        b"github.com",
        os.uname().nodename.encode() if len(os.uname().nodename) > 6 else b"\0\0",
    ):
        assert trace not in path.read_bytes()
    assert not (path.parent / "files" / "wandb-metadata.json").exists()
    assert not (path.parent / "files" / "requirements.txt").exists()


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("interrupted", 130), ("stopped", 0), ("finished", 0)])
def test_the_exit_code_is_the_status_of_the_run(folder: Path, status: str, code: int) -> None:
    log_run(offline(), folder, status=status)
    found = read(wandb_files(folder)[0])
    assert (found.exit_code, found.summary["status"]) == (code, status)


def test_a_run_that_starts_again_gets_a_new_id_and_a_resumed_run_keeps_its_id(folder: Path) -> None:
    assert tracking_name(record(attempts=3)) == RUN
    assert tracking_name(record(attempts=3, restarts=2)) == f"{RUN}-r2"
    log_run(offline(), folder, epochs=range(2), status="interrupted")
    time.sleep(1.1)  # a folder of W&B is named by the second
    log_run(offline(), folder, epochs=range(1, 3), attempts=2)
    first, second = (read(path) for path in wandb_files(folder))
    assert (first.run["run_id"], second.run["run_id"]) == (RUN, RUN)
    assert [item["_step"] for item in second.history.values()] == [1, 2]
    assert second.run["resume"] is True


def test_two_loggers_one_after_the_other_share_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        log_run(offline(), tmp_path / name)
    for name in ("a", "b"):
        (path,) = wandb_files(tmp_path / name)
        assert str(tmp_path / ("b" if name == "a" else "a")).encode() not in path.read_bytes()
        assert not (tmp_path / name / "wandb" / "cache").exists()


def test_disabled_does_nothing_and_loads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes an import fail
    log_run(WandbLogger(mode="disabled"), folder)
    assert list(folder.iterdir()) == []


def test_a_logger_that_never_started_can_be_closed(folder: Path) -> None:
    offline().closed("failed")
    assert not folder.exists()


@pytest.mark.parametrize("settings", [{"mode": "dryrun"}, {"timeout": 0}, {"timeout": "soon"}, {"project": None}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    problems: list[str] = []
    node = {"_target_": "emorec.loggers.wandb.WandbLogger", **settings}
    assert Component.from_node(node, "logger.wandb", problems) is None
    assert problems[0].startswith(f"logger.wandb.{next(iter(settings))}: expected")


def test_the_group_may_read_what_wandb_wrote_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir()
    folder.chmod(0o2775)
    before = os.umask(0o077)
    try:
        log_run(offline(), folder)
    finally:
        os.umask(before)
    for path in (folder / "wandb").rglob("*"):
        assert path.stat().st_mode & 0o060 == 0o060, path


# --------------------------------------------------------------------------------------------- W&B that fails


def test_an_error_of_any_kind_is_reported_once_and_does_not_end_the_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from wandb.sdk.mailbox.mailbox import MailboxClosedError

    def fail(*_: Any, **__: Any) -> None:
        raise MailboxClosedError("the service has died")

    monkeypatch.setattr("wandb.sdk.wandb_run.Run.log", fail)
    log_run(offline(), folder)
    (warning,) = [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]
    assert warning.startswith("W&B fails (the service has died): the training goes on without it")


def test_without_a_key_a_run_is_kept_offline_with_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_run(WandbLogger(), folder)
    (warning,) = [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]
    assert "found no API key" in warning
    assert f"emorec runs sync {RUN}" in warning
    assert len(read(wandb_files(folder)[0]).history) == 3


def test_a_server_that_cannot_be_reached_is_given_up_in_time_and_the_run_is_kept_offline(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    log_run(WandbLogger(timeout=2), folder)
    assert time.monotonic() - started < 80
    assert caplog.text.count("W&B fails") == 1
    found = read(wandb_files(folder)[-1])
    assert (len(found.history), found.exit_code) == (3, 0)
    assert KEY.encode() not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_tag_that_wandb_refuses_does_not_end_the_training(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_run(offline(), folder, tags=["x" * 100])
    assert caplog.text.count("W&B fails") == 1
    assert "the training goes on without it" in caplog.text


def _service() -> int:
    """Process id of W&B's service, a child of this process."""
    alive = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = (path / "status").read_text()
            if "Name:\twandb-core" in status and f"PPid:\t{os.getpid()}\n" in status and "State:\tZ" not in status:
                alive.append(int(path.name))
    (found,) = alive
    return found


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="finds the service of W&B in /proc")
@pytest.mark.parametrize("when", ["epoch", "finished", "closed"])
def test_a_service_of_wandb_that_dies_does_not_end_the_training(
    folder: Path, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Killing(WandbLogger):
        def __getattribute__(self, name: str) -> Any:
            if name == when and not killed:
                killed.append(_service())
                os.kill(killed[0], signal.SIGKILL)
                time.sleep(0.2)
            return super().__getattribute__(name)

    killed: list[int] = []
    log_run(Killing(mode="offline", system_metrics=False), folder)
    assert killed
    assert caplog.text.count("W&B fails") == 1
    log_run(offline(), folder.with_name("another"))
    assert read(wandb_files(folder.with_name("another"))[0]).exit_code == 0


# --------------------------------------------------------------------------------------------- W&B, online


@pytest.fixture
def netrc(tmp_path: Path) -> Callable[[str], None]:
    def write(host: str) -> None:
        path = tmp_path / "home" / ".netrc"
        path.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
        path.chmod(0o600)

    return write


@pytest.mark.parametrize("source", ["environment", "netrc"])
def test_online_a_run_is_uploaded_with_a_key_of_the_environment_or_of_netrc(
    folder: Path, source: str, monkeypatch: pytest.MonkeyPatch, netrc: Callable[[str], None]
) -> None:
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        if source == "environment":
            monkeypatch.setenv("WANDB_API_KEY", KEY)
        else:
            netrc(server.address.removeprefix("http://"))
        log_run(WandbLogger(entity="laboratory", timeout=20), folder)
    run = server.runs[RUN]
    assert (run["groupName"], run["jobType"], run["tags"]) == ("the_sweep", "train", ["first", "second"])
    assert (run["project"], run["entity"], run["notes"]) == ("emorec", "laboratory", "a note")
    assert [line["val/uar"] for line in server.lines[RUN] if "val/uar" in line] == [0.0, 0.25, 0.5]
    assert server.exit_codes == {RUN: 0}
    assert (server.summaries[RUN]["test/uar"], server.summaries[RUN]["status"]) == (0.625, "finished")
    sent = b"".join(content for _, content in server.requests)
    for secret in (KEY.encode(), b"/home/somebody"):
        assert secret not in sent
    assert {path.split("/")[1] for path, _ in server.requests} <= {"graphql", "files", "file"}


def test_online_a_resumed_run_continues_without_duplicate_epochs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        log_run(WandbLogger(timeout=20), folder, epochs=range(3), status="interrupted")
        assert server.exit_codes == {RUN: 130}
        log_run(WandbLogger(timeout=20), folder, epochs=range(2, 5), attempts=2)
    assert list(server.runs) == [RUN]
    assert [line["epoch"] for line in server.lines[RUN] if "val/uar" in line] == [0, 1, 2, 3, 4]
    assert server.exit_codes == {RUN: 0}


def test_an_online_run_counts_as_unsent_until_it_has_ended_without_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Recording(WandbLogger):
        def epoch(self, row: Any) -> None:
            super().epoch(row)
            seen.append(waiting(folder))

    marks = [folder / "wandb" / f"run-{number}-{RUN}" / "unsent" for number in range(2)]
    for mark, reason in zip(
        marks, ("", "the server was down"), strict=True
    ):  # of a start that was killed and of one that failed
        mark.parent.mkdir(parents=True)
        mark.write_text(reason)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        log_run(Recording(timeout=20), folder)
    assert len(seen[0]) == 3
    assert waiting(folder) == [marks[1].parent]
    assert [mark.exists() for mark in marks] == [False, True]


def test_a_server_that_fails_during_training_does_not_end_it_and_the_run_is_marked_as_unsent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(WandbLogger):
        def epoch(self, row: Any) -> None:
            server.broken = True
            super().epoch(row)

    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        started = time.monotonic()
        log_run(Breaking(timeout=3), folder, status="failed")
    assert time.monotonic() - started < 80
    assert caplog.text.count("W&B fails") == 1
    assert list((folder / "wandb").glob("run-*/unsent"))
