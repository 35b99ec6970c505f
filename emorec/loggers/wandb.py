"""Shows a run in Weights & Biases, or keeps it to be shown there later."""

import importlib
import logging
import netrc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emorec.errors import UserError
from emorec.loggers.base import RunLogger
from emorec.loggers.published import confusion_picture, published_config, scalars, share, splits
from emorec.runs.checkpoint_store import RunRecord
from emorec.storage.folders import list_tree

log = logging.getLogger(__name__)

FOLDER = "wandb"  # in the run's directory
CACHE = "cache"  # in it
MODES = ("online", "offline", "disabled")
UNSENT = "unsent"  # in the folder that W&B keeps of an online run until it ended well; says why, where W&B failed
REASON_CHARACTERS = 200  # of an error of W&B that are shown
WITHOUT = "the training goes on without it"
EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1, "interrupted": 130}
# The environment is not for W&B: no code, no git, no command line, no console, no machine.
PRIVATE: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "",
    "save_code": False,
    "silent": True,
    "symlink": False,
    "x_disable_meta": True,
    "x_save_requirements": False,
}
# What W&B raises beside its own `Error` when its service dies; no public names, so another version may lack some.
INTERNAL_FAILURES = (
    ("wandb.sdk.mailbox.mailbox", "MailboxClosedError"),
    ("wandb.sdk.mailbox.mailbox_handle", "HandleAbandonedError"),
    ("wandb.sdk.mailbox.mailbox_handle", "ServerResponseError"),
    ("wandb.sdk.lib.service.service_token", "WandbServiceConnectionError"),
    ("wandb.sdk.lib.service.service_connection", "WandbAttachFailedError"),
    ("wandb.sdk.lib.service.service_connection", "WandbApiFailedError"),
)


def wandb_id(record: RunRecord) -> str:
    """The id of a run in W&B: the run's own; with `-r<n>` where it was begun anew, for W&B takes no step twice."""
    return f"{record.run_id}-r{record.restarts}" if record.restarts else record.run_id


def folders_to_environment(folder: Path) -> dict[str, str]:
    """Environment variables that keep all files of W&B in the directory of a run."""
    own = folder / FOLDER
    return {
        "WANDB_DIR": str(folder),
        "WANDB_CACHE_DIR": str(own / CACHE),
        "WANDB_DATA_DIR": str(own / "data"),
        "WANDB_ARTIFACT_DIR": str(own / "artifacts"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }


def tidy(run: Path) -> None:
    """Removes what W&B needs only while it runs, with its absolute links into that, and shares the rest."""
    shutil.rmtree(run / FOLDER / CACHE, ignore_errors=True)
    for path in list_tree(run / FOLDER):
        if path.is_symlink():
            path.unlink(missing_ok=True)
    share(run / FOLDER)


class WandbLogger(RunLogger):
    """Logs a run's config, epochs and results to W&B. W&B can fail or be out of reach: the training goes on.

    Args:
        mode: "online"; "offline", to be uploaded by `emorec runs sync`; "disabled".
        project: in W&B.
        entity: the team or user in W&B; `None`: the default of the API key.
        timeout: seconds to wait for W&B at the start and at the end of a run.
        system_metrics: whether the use of processor, memory and GPU is logged.

    Raises:
        UserError: a setting is not as it must be.
    """

    def __init__(
        self,
        *,
        mode: str = "online",
        project: str = "emorec",
        entity: str | None = None,
        timeout: float = 60.0,
        system_metrics: bool = True,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"expected logger.wandb.mode in {MODES}, got {mode!r}")
        if not isinstance(timeout, int | float) or timeout <= 0:
            raise UserError(f"expected logger.wandb.timeout to be seconds above 0, got {timeout!r}")
        for key, value in (("project", project), ("entity", entity)):
            if not isinstance(value, str) and not (key == "entity" and value is None):
                raise UserError(f"expected logger.wandb.{key} to be a name, got {value!r}")
        self.mode, self.project, self.entity = mode, project, entity
        self.timeout, self.system_metrics = float(timeout), system_metrics
        self._run: Any = None
        self._failed = False
        self._surroundings = ExitStack()
        self._run_id = ""

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        if self.mode == "disabled":
            return
        self._run_id = record.run_id
        otherwise = {"online": f"run {self._run_id} is kept offline, {self._hint()}", "offline": WITHOUT}
        for mode in ("online", "offline") if self.mode == "online" else ("offline",):
            self._surroundings.enter_context(_surroundings(folder))
            self._attempt(partial(self._open, mode, record, config, folder), otherwise[mode])
            if self._run is not None:
                self._attempt(lambda: self._describe(record, folder))
                return
            self._surroundings.close()

    def epoch(self, row: Mapping[str, float]) -> None:
        if self._run is not None and not self._failed:
            # by number, so that epochs which a resumed run passes again are taken once
            self._attempt(lambda: self._run.log(dict(row), step=int(row["epoch"]), commit=True))

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        if self._run is not None and not self._failed:
            self._attempt(lambda: self._conclude(record, metrics))

    def closed(self, status: str) -> None:
        with self._surroundings:
            if self._run is not None:  # where it has failed as well, so that it is not taken for a finished one
                self._attempt(lambda: self._finish(status), self._hint())

    def _hint(self) -> str:
        return f"emorec runs sync {self._run_id} uploads it later"

    def _attempt(self, action: Callable[[], None], otherwise: str | None = None) -> None:
        """Does something with W&B; where it fails this is said, and the run goes on without."""
        try:
            action()
        except _failures() as error:
            reason = " ".join(str(error).split())[:REASON_CHARACTERS] or type(error).__name__
            if not self._failed:
                log.warning("W&B fails (%s): %s", reason, otherwise or f"{WITHOUT}; {self._hint()}")
            if self._run is not None:
                self._failed = True
                self._mark_unsent(reason)

    def _mark_unsent(self, reason: str = "") -> None:
        folder = Path(self._run.settings.sync_dir)
        if folder.is_dir():
            (folder / UNSENT).write_text(reason)

    def _unmark(self, folder: Path, identifier: str) -> None:
        """Of an online run that has ended well, and of its earlier starts that were killed and not refused by W&B: a
        later upload of theirs would put what they knew in the place of the result."""
        for mark in folder.parent.glob(f"run-*-{identifier}/{UNSENT}"):
            with suppress(FileNotFoundError):  # uploaded in the meantime
                if mark.stat().st_size == 0:
                    mark.unlink()

    def _open(self, mode: str, record: RunRecord, config: Mapping[str, Any], at: Path) -> None:
        import wandb

        if mode == "online" and not _has_key():
            raise wandb.errors.UsageError("found no API key in WANDB_API_KEY or ~/.netrc")
        self._run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=self.project,
            entity=self.entity,
            id=wandb_id(record),
            name=wandb_id(record),
            group=config["sweep"]["name"],
            job_type="train",
            tags=record.tags,
            notes=record.notes,
            config=published_config(config),
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                root_dir=str(at),
                init_timeout=self.timeout,
                finish_timeout=self.timeout,
                finish_timeout_raises=True,
                x_disable_stats=not self.system_metrics,
                **PRIVATE,
            ),
        )
        if mode == "online":
            self._mark_unsent()  # until it has ended well: a kill leaves no time to say so

    def _describe(self, record: RunRecord, folder: Path) -> None:
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
        self._run.summary.update(
            {"run_id": record.run_id, "group_id": record.group_id, "run_directory": str(folder), "status": "running"}
        )

    def _conclude(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        import wandb

        found = {**scalars(metrics), "best_epoch": record.best_epoch, "epochs": record.epochs}
        self._run.summary.update({**found, **{f"seconds/{step}": value for step, value in record.timings.items()}})
        shown: dict[str, Any] = {}
        for split in splits(metrics):
            picture = confusion_picture(metrics[f"{split}/confusion"], metrics["labels"])
            shown[f"{split}/confusion"] = wandb.Image(picture)
            rows = metrics[f"{split}/per_class"]
            columns = list(next(iter(rows.values()), {}))
            data = [[label, *(row[column] for column in columns)] for label, row in rows.items()]
            shown[f"{split}/per_class"] = wandb.Table(columns=["class", *columns], data=data)
        if shown:
            self._run.log(shown)

    def _finish(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=EXIT_CODES.get(status, 1))
        self._unmark(Path(self._run.settings.sync_dir), self._run.id)
        self._run = None


def _failures() -> tuple[type[Exception], ...]:
    """What W&B raises when it is out of reach, has died, or does not like what it is given."""
    import wandb

    own = [getattr(importlib.import_module(module), name, None) for module, name in INTERNAL_FAILURES]
    return (wandb.Error, OSError, ValueError, *(found for found in own if found is not None))


def _has_key() -> bool:
    """Whether W&B finds an API key without asking for one, for nobody is there to answer."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(wandb.setup().settings.base_url).netloc
    named = os.environ.get("NETRC")
    for path in [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


@contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """What W&B writes goes to the directory of a run; afterwards W&B has ended, and all is as it was before."""
    import wandb

    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    leave, hook = sys.exit, sys.excepthook  # W&B puts its own in their place
    os.environ.update(folders_to_environment(folder))
    try:
        yield
    finally:
        failures: tuple[type[BaseException], ...] = (*_failures(), SystemExit)
        try:
            wandb.teardown()
        except failures as error:  # it ends the program where its own service has died
            log.debug("W&B did not end well: %s", error)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)
        sys.exit, sys.excepthook = leave, hook  # type: ignore[assignment]
        tidy(folder)
