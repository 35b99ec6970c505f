"""Loggers of Lightning get each epoch once over all starts of a run, and their failures never end the training."""

import csv
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from emorec.cli import main
from emorec.config.instantiation import Component
from emorec.errors import UserError
from emorec.loggers.base import RunLogger
from emorec.loggers.factory import make_loggers
from emorec.loggers.lightning import LightningLogger
from emorec.training.callbacks.history import History
from tests.loggers.test_loggers import RUN, log_run
from tests.loggers.test_tracking import runs, train

MLFLOW = importlib.util.find_spec("mlflow")
needs_mlflow = pytest.mark.skipif(MLFLOW is None or MLFLOW.origin is None, reason="needs the extra mlflow")


@pytest.fixture(autouse=True)
def _without_mlflow_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / RUN


def make(name: str = "csv", cls: str = "CSVLogger", **arguments: Any) -> RunLogger:
    problems: list[str] = []
    node = {"_target_": f"lightning.pytorch.loggers.{cls}", **arguments}
    component = Component.from_node(node, f"logger.{name}", problems)
    assert not problems
    (logger,) = make_loggers({name: component})
    assert isinstance(logger, LightningLogger)
    return logger


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def epochs(folder: Path) -> list[int]:
    return [int(row["step"]) for row in metrics(folder) if row["val/uar"]]


# ---------------------------------------------------------------------------------------------------- CSV


def test_csv_holds_config_epochs_and_test_metrics(folder: Path) -> None:
    log_run(make(), folder)
    assert epochs(folder) == [0, 1, 2]
    first, *_, last = metrics(folder)
    assert (first["global_step"], first["lr"], first["train/loss"], first["val/uar"]) == ("10", "0.1", "1.0", "0.0")
    assert (last["step"], last["test/uar"], last["best_epoch"]) == ("2", "0.625", "2")
    config = yaml.safe_load((folder / "csv" / "hparams.yaml").read_text())
    assert (config["optimizer.lr"], config["run_id"], config["sweep"]) == (0.5, RUN, "the_sweep")
    assert "/home/somebody" not in json.dumps(config)


def test_each_epoch_is_written_when_it_ends(folder: Path) -> None:
    class Reading(LightningLogger):
        def epoch(self, row: Any) -> None:
            super().epoch(row)
            written.append(epochs(folder))

    written: list[list[int]] = []
    log_run(Reading("csv", Component.from_node({"_target_": "lightning.pytorch.loggers.CSVLogger"}, "", [])), folder)  # type: ignore[arg-type]
    assert written == [[0], [0, 1], [0, 1, 2]]


def test_csv_keeps_the_epochs_of_an_interrupted_start_once(folder: Path) -> None:
    log_run(make(), folder, epochs=range(3), status="interrupted")
    log_run(make(), folder, resumed=range(2), epochs=range(2, 5), attempts=2)
    assert epochs(folder) == [0, 1, 2, 3, 4]


def test_csv_of_a_run_that_starts_again_holds_only_its_own_epochs(folder: Path) -> None:
    log_run(make(), folder, epochs=range(3), status="failed")
    log_run(make(), folder, epochs=range(2), attempts=2, restarts=1)
    assert epochs(folder) == [0, 1]


def test_the_csv_logger_takes_its_own_arguments(folder: Path) -> None:
    log_run(make(name="mine", prefix="trial", version="first"), folder)
    assert (folder / "mine" / "first" / "metrics.csv").read_text().count("trial-val/uar") == 1


def test_the_group_may_read_the_files_whatever_the_umask(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o2775)
    before = os.umask(0o077)
    try:
        log_run(make(), folder)
        log_run(tensorboard(), folder)
    finally:
        os.umask(before)
    assert {path.name for path in (folder / "csv").iterdir()} == {"hparams.yaml", "logged.json", "metrics.csv"}
    assert list((folder / "tensorboard").glob("events.*"))
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o060 == 0o060, path


def test_a_training_that_is_interrupted_and_read_later_has_each_epoch_once(
    root: Path, train_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = History.on_train_epoch_end

    def interrupted(self: History, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    words = [*train_overrides, "logger=csv", "checkpoint.every_seconds=0"]
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_end", interrupted)
        assert train(*words, "test=false") == 130
    assert train(*words, "test=false") == 0
    (run,) = runs(root)
    assert epochs(run) == [0, 1, 2]
    assert "test/uar" not in metrics(run)[0]
    assert train(*words) == 0
    assert epochs(run) == [0, 1, 2]
    expected = json.loads((run / "metrics.json").read_text())["test/uar"]
    assert float(metrics(run)[-1]["test/uar"]) == pytest.approx(expected)
    assert {path.name for path in root.iterdir()} <= {"cache", "checkpoints", "data"}


# ---------------------------------------------------------------------------------------------------- TensorBoard


def tensorboard() -> RunLogger:
    node = yaml.safe_load(Path("conf/logger/tensorboard.yaml").read_text())["tensorboard"]
    return make("tensorboard", "TensorBoardLogger", **{key: node[key] for key in node if key != "_target_"})


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_keeps_scalars_by_epoch_and_the_confusion_matrix(folder: Path) -> None:
    log_run(tensorboard(), folder)
    found = events(folder)
    assert [(event.step, event.value) for event in found.Scalars("val/uar")] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert [(event.step, event.value) for event in found.Scalars("test/uar")] == [(2, 0.625)]
    assert found.Images("test/confusion")[0].encoded_image_string.startswith(b"\x89PNG")
    of_epochs = {"epoch", "global_step", "lr", "seconds", "train/loss", "val/uar"}
    assert set(found.Tags()["scalars"]) == of_epochs | {"test/uar", "test/loss", "best_epoch"}


def test_tensorboard_shows_each_epoch_of_a_resumed_run_once(folder: Path) -> None:
    log_run(tensorboard(), folder, epochs=range(4), status="interrupted")
    log_run(tensorboard(), folder, resumed=range(2), epochs=range(2, 5))
    assert [event.step for event in events(folder).Scalars("val/uar")] == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("when", ["__init__", "log_hyperparams", "log_metrics", "save", "finalize"])
def test_a_logger_that_fails_warns_once_and_does_not_end_the_training(
    folder: Path, when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the server\nand more")

    logger = make()
    monkeypatch.setattr("emorec.loggers.lightning.PAUSES", (0.0, 0.0))
    monkeypatch.setattr(f"lightning.pytorch.loggers.CSVLogger.{when}", fail)
    log_run(logger, folder)
    warnings = [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]
    assert warnings == ["logger.csv fails (no route to the server): the training goes on without it"]


def test_a_start_that_fails_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = CSVLogger.log_hyperparams, [OSError("table exists already")]

    def fail_once(self: CSVLogger, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        real(self, *arguments)

    monkeypatch.setattr("emorec.loggers.lightning.PAUSES", (0.0,))
    monkeypatch.setattr(CSVLogger, "log_hyperparams", fail_once)
    log_run(make(), folder)
    assert epochs(folder) == [0, 1, 2]
    assert not caplog.records


def test_a_logger_that_never_started_can_be_closed(folder: Path) -> None:
    make().closed("failed")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["model", "resume", "evaluations", "..", "a/b"])
def test_a_logger_has_a_folder_of_its_own(name: str) -> None:
    with pytest.raises(UserError, match="expected a name"):
        make(name=name)


@pytest.mark.parametrize(
    ("cls", "package", "hint"),
    [
        ("MLFlowLogger", "mlflow", r"pip install 'emorec\[mlflow\]'"),
        ("TensorBoardLogger", "tensorboard", r"pip install 'emorec\[tensorboard\]'"),
        ("CometLogger", "comet_ml", "pip install comet-ml"),
    ],
)
def test_a_missing_package_is_reported_with_its_name(
    cls: str, package: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(UserError, match=f"logger.x: expected the package {package} for {cls}, found none: {hint}$"):
        make(name="x", cls=cls)


@pytest.mark.skipif(MLFLOW is not None, reason="mlflow is installed")
def test_without_mlflow_no_training_begins(
    root: Path, train_overrides: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "mlflow").mkdir()  # Python would take it for a package
    monkeypatch.chdir(root)
    assert train(*train_overrides, "logger=mlflow") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'emorec[mlflow]'" in line
    assert not list(root.rglob("run.json"))


def test_a_password_in_the_tracking_uri_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://somebody:hunter2hunter2@mlflow.example.org")
    assert main(["train", "logger=mlflow"]) == 2
    message = capsys.readouterr().err
    assert "logger.mlflow.tracking_uri looks like an address with a password" in message
    assert "hunter2" not in message


def test_an_unknown_argument_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "logger=csv", "+logger.csv.flush=1"]) == 2
    assert "logger.csv.flush: unknown key" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- MLflow


@pytest.fixture
def mlflow_arguments(tmp_path: Path) -> dict[str, Any]:
    return {"tracking_uri": f"sqlite:///{tmp_path}/mlflow/mlflow.db", "experiment_name": "study"}


def mlflow_runs(arguments: dict[str, Any]) -> list[tuple[Any, list[int]]]:
    """(run, the steps of its "val/uar"), oldest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(arguments["tracking_uri"])
    experiment = client.get_experiment_by_name(arguments["experiment_name"])
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [(run, [item.step for item in client.get_metric_history(run.info.run_id, "val/uar")]) for run in found]


@needs_mlflow
def test_mlflow_has_config_epochs_results_and_status(folder: Path, mlflow_arguments: dict[str, Any]) -> None:
    log_run(make("mlflow", "MLFlowLogger", **mlflow_arguments), folder)
    ((run, steps),) = mlflow_runs(mlflow_arguments)
    assert (run.info.run_name, run.info.status, steps) == (RUN, "FINISHED", [0, 1, 2])
    assert (run.data.params["optimizer.lr"], run.data.params["run_id"]) == ("0.5", RUN)
    assert (run.data.metrics["test/uar"], run.data.metrics["best_epoch"]) == (0.625, 2.0)
    assert "/home/somebody" not in str(run.data.params)


@needs_mlflow
def test_mlflow_continues_the_run_that_was_interrupted(folder: Path, mlflow_arguments: dict[str, Any]) -> None:
    log_run(make("mlflow", "MLFlowLogger", **mlflow_arguments), folder, status="interrupted")
    ((run, steps),) = mlflow_runs(mlflow_arguments)
    assert (run.info.status, steps) == ("FAILED", [0, 1, 2])
    log_run(make("mlflow", "MLFlowLogger", **mlflow_arguments), folder, resumed=range(2), epochs=range(2, 5))
    ((run, steps),) = mlflow_runs(mlflow_arguments)
    assert (run.info.status, steps) == ("FINISHED", [0, 1, 2, 3, 4])


@needs_mlflow
def test_mlflow_gets_a_new_run_after_a_restart_or_on_another_server(
    folder: Path, tmp_path: Path, mlflow_arguments: dict[str, Any]
) -> None:
    log_run(make("mlflow", "MLFlowLogger", **mlflow_arguments), folder, status="failed")
    log_run(make("mlflow", "MLFlowLogger", **mlflow_arguments), folder, restarts=1, status="interrupted")
    assert [(run.info.run_name, steps) for run, steps in mlflow_runs(mlflow_arguments)] == [
        (RUN, [0, 1, 2]),
        (f"{RUN}-r1", [0, 1, 2]),
    ]
    other = {**mlflow_arguments, "tracking_uri": f"sqlite:///{tmp_path}/other.db"}
    log_run(make("mlflow", "MLFlowLogger", **other), folder, restarts=1, resumed=range(2), epochs=range(2, 4))
    assert [steps for _, steps in mlflow_runs(other)] == [[0, 1, 2, 3]]


@needs_mlflow
def test_an_mlflow_server_that_cannot_be_reached_does_not_end_the_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("emorec.loggers.lightning.PAUSES", (0.0,))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_run(make("mlflow", "MLFlowLogger", tracking_uri="http://127.0.0.1:9"), folder)
    assert caplog.text.count("logger.mlflow fails") == 1


@needs_mlflow
def test_a_training_is_in_mlflow_below_the_root(root: Path, train_overrides: list[str]) -> None:
    assert train("-m", *train_overrides, "logger=mlflow", "seed=0,1") == 0
    found = mlflow_runs({"tracking_uri": f"sqlite:///{root}/mlflow/mlflow.db", "experiment_name": "emorec"})
    assert {run.info.run_name for run, _ in found} == {run.name for run in runs(root)}
    assert [steps for _, steps in found] == [[0, 1, 2]] * 2
    assert (runs(root)[0] / "log.txt").read_text().count("run ") > 0


@needs_mlflow
def test_the_group_may_write_to_the_database_of_mlflow_whatever_the_umask(
    folder: Path, tmp_path: Path, mlflow_arguments: dict[str, Any]
) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(0o077)
    try:
        log_run(make("mlflow", "MLFlowLogger", **mlflow_arguments), folder)
    finally:
        os.umask(before)
    assert (tmp_path / "mlflow").stat().st_mode & 0o7777 == 0o2775
    assert (tmp_path / "mlflow" / "mlflow.db").stat().st_mode & 0o777 == 0o664
