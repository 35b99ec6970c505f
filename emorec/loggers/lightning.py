"""Logs a run with a logger of Lightning: TensorBoard, CSV, MLflow, Comet or another of `lightning.pytorch.loggers`."""

import importlib.util
import inspect
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from emorec.config.instantiation import Component
from emorec.config.keys import flat
from emorec.errors import UserError, first_line
from emorec.loggers.base import RunLogger
from emorec.loggers.published import confusion_images, published_config, tracking_name
from emorec.runs.checkpoint_store import RunRecord
from emorec.runs.results import read_history, scalar_metrics
from emorec.storage.atomic import follow_folder_mode, make_folder, share, write_json
from emorec.storage.folders import remove_tree

log = logging.getLogger(__name__)

STATE = "logged.json"  # in the logger's folder: what has been logged of which start of the run
RUN_FOLDERS = ("evaluations", "model", "resume")  # in the run's directory, not for loggers
REASON_CHARACTERS = 200  # of an error that are shown
# Seconds between tries to start: where runs create an experiment or MLflow's database at once, all but one fail.
PAUSES = (2.0, 8.0)
# {class: (its package, what to install)}
PACKAGES = {
    "CometLogger": ("comet_ml", "comet-ml"),
    "LitLogger": ("litlogger", "litlogger"),
    "MLFlowLogger": ("mlflow", "'emorec[mlflow]'"),
    "TensorBoardLogger": ("tensorboard", "'emorec[tensorboard]'"),
}
# Arguments that continue an experiment of a tracking server: MLflow, Comet, W&B.
ID_ARGUMENTS = ("run_id", "experiment_key", "id")
# Defaults for MLflow: a server that cannot be reached is given up after seconds instead of minutes.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class LightningLogger(RunLogger):
    """Passes a run to a logger of Lightning. Where that fails, it warns once and the training goes on.

    A logger that can continue an experiment by its id continues it when the run resumes, and gets each epoch once. Any
    other writes its files anew at each start, with the epochs of earlier starts.

    Args:
        name: of the entry in the config, and of the logger's folder in the run's directory.
        component: a class derived from Lightning's `Logger`.

    Raises:
        UserError: the name does not fit, an argument is missing, or a package is not installed.
    """

    def __init__(self, name: str, component: Component) -> None:
        if name in RUN_FOLDERS or not re.fullmatch(r"\w[\w-]*", name):
            expected = f"a name of letters, digits, '_' and '-' besides {', '.join(RUN_FOLDERS)}"
            raise UserError(f"{component.where}: expected {expected}, got {name!r}")
        _check_package(component)
        component.check_complete(*_derived_arguments(component, Path(), ""))
        parameters = inspect.signature(component.target).parameters
        self._name, self._component = name, component
        self._id_argument = next((item for item in ID_ARGUMENTS if item in parameters), None)
        self._folder: Path | None = None
        self._logger: Logger | None = None
        self._state: dict[str, Any] = {}
        self._failed = False

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        self._folder = folder / self._name
        start = partial(self._open, self._folder, record, config)
        for pause in PAUSES:
            try:
                return start()
            except Exception:  # each tracker has its own errors; the last try reports its error
                time.sleep(pause)
        self._attempt(start)

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        for row in rows:
            self.epoch(row)

    def epoch(self, row: Mapping[str, float]) -> None:
        if int(row["epoch"]) > self._state.get("epoch", -1):
            self._attempt(lambda: self._log_epoch(row))

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        assert self._folder is not None
        self.resumed(read_history(self._folder.parent))  # new only where test is read of a run that is finished
        self._attempt(lambda: self._log_results(record, metrics))

    def closed(self, status: str) -> None:
        if self._folder is None:
            return
        if self._logger is not None:  # also after an error, so that the tracker learns how the run ended
            self._attempt(lambda: self._end("success" if status in ("finished", "stopped") else "failed"), always=True)
        share(self._folder)

    def _attempt(self, action: Callable[[], None], *, always: bool = False) -> None:
        """Calls the logger. The first error is reported; after it, only what is done `always` is tried."""
        if self._failed and not always:
            return
        try:
            action()
        except Exception as error:  # each tracker has its own errors
            if not self._failed:
                reason = first_line(error)[:REASON_CHARACTERS]
                log.warning("logger.%s fails (%s): the training goes on without it", self._name, reason)
            self._failed = True

    def _open(self, folder: Path, record: RunRecord, config: Mapping[str, Any]) -> None:
        """Makes Lightning's logger, which continues an earlier experiment of the same start where it can."""
        start = {"settings": dict(self._component.node), "restarts": record.restarts}
        stored = json.loads((folder / STATE).read_text()) if (folder / STATE).is_file() else {}
        continues = bool(stored.get("id")) and stored["start"] == start
        if stored and self._id_argument is None:
            remove_tree(folder)
        self._state = stored if continues else {"start": start, "id": None, "epoch": -1}
        write_json(folder / STATE, self._state)
        _create_database(str(self._component.arguments.get("tracking_uri")))
        derived = _derived_arguments(self._component, folder, tracking_name(record))
        if continues:
            derived |= dict.fromkeys(self._component.lacks(str(self._id_argument)), stored["id"])
        logger = self._component.make(Logger, **derived)  # type: ignore[type-abstract]
        if not continues:
            own = {"run_id": record.run_id, "group_id": record.group_id, "sweep": config["sweep"]["name"]}
            with warnings.catch_warnings(action="ignore"):  # CSVLogger warns of the file of the state
                logger.log_hyperparams({**flat(published_config(config)), **own})
        if self._id_argument is not None:
            self._state["id"] = logger.version
        write_json(folder / STATE, self._state)
        self._logger = logger

    def _log_epoch(self, row: Mapping[str, float]) -> None:
        assert self._folder is not None
        # a logger has a step of its own, which is the epoch here
        self._log({"global_step" if name == "step" else name: value for name, value in row.items()}, int(row["epoch"]))
        self._state["epoch"] = int(row["epoch"])
        write_json(self._folder / STATE, self._state)

    def _log_results(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        results = {name: value for name, value in scalar_metrics(metrics).items() if name.startswith("test/")}
        self._log({**results, "best_epoch": record.best_epoch}, record.best_epoch)
        if isinstance(self._logger, TensorBoardLogger):
            for name, image in confusion_images(metrics).items():
                self._logger.experiment.add_image(name, image, record.best_epoch, dataformats="HWC")

    def _log(self, metrics: Mapping[str, Any], epoch: int | None) -> None:
        assert self._logger is not None
        self._logger.log_metrics(dict(metrics), step=epoch)
        self._logger.save()

    def _end(self, status: str) -> None:
        assert self._logger is not None
        self._logger.finalize(status)
        for name in ("finish", "end"):  # of W&B and Comet, whose experiment would go on until the process ends
            getattr(getattr(self._logger, "experiment", None), name, lambda: None)()


def _check_package(component: Component) -> None:
    for base in component.target.__mro__:
        name = base.__name__
        module, to_install = PACKAGES.get(name, ("lightning", ""))
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # a folder of that name has no origin
            hint = f"pip install {to_install}"
            raise UserError(f"{component.where}: expected the package {module} for {name}, found none: {hint}")
        if module == "mlflow":
            logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each retry
            os.environ.update({key: value for key, value in MLFLOW_ENVIRONMENT.items() if key not in os.environ})


def _derived_arguments(component: Component, folder: Path, name: str) -> dict[str, Any]:
    """Those of the arguments that follow from the run, that the class takes and that the config does not give."""
    values = {**dict.fromkeys(("save_dir", "dir", "root_dir"), str(folder)), "run_name": name, "name": name}
    if issubclass(component.target, CSVLogger | TensorBoardLogger):
        values |= {"name": "", "version": ""}  # folders below the logger's own
    return {key: values[key] for key in component.lacks(*values)}


def _create_database(uri: str) -> None:
    """Creates an SQLite file in a new folder with the permission bits of its parent, so that a group can write."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.parent.is_dir():
        make_folder(path.parent)
        path.touch()
        follow_folder_mode(path)
