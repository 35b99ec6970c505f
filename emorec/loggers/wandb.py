"""Logs a run to Weights & Biases, or keeps it offline for `emorec runs sync`."""

import logging
import netrc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from emorec.annotations import Positive
from emorec.loggers.base import RunLogger
from emorec.loggers.published import confusion_images, published_config, tracking_name
from emorec.runs.checkpoint_store import RunRecord
from emorec.runs.results import scalar_metrics
from emorec.storage.atomic import make_folder, share
from emorec.storage.folders import is_real_folder, list_tree

log = logging.getLogger(__name__)

FOLDER = "wandb"  # in the run's directory
CACHE = "cache"  # in `FOLDER`
# A file in the folder of an online run until the run has ended without an error of W&B; it holds that error.
UNSENT = "unsent"
REASON_CHARACTERS = 200  # of an error of W&B that are shown
WITHOUT = "the training goes on without it"
EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1, "interrupted": 130}
# W&B gets no code, git state, command line, console output or host name.
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


def folders_to_environment(folder: Path) -> dict[str, str]:
    """Environment variables that keep all files of W&B in a folder, such as the directory of a run."""
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
    """Removes the cache that W&B needs only while it runs, and the absolute links into it; shares the other files."""
    if not is_real_folder(run / FOLDER):
        return
    shutil.rmtree(run / FOLDER / CACHE, ignore_errors=True)
    for path in list_tree(run / FOLDER):
        if path.is_symlink():
            path.unlink(missing_ok=True)
    share(run / FOLDER)


class WandbLogger(RunLogger):
    """Logs a run's config, epochs and results to W&B. The training goes on where W&B fails or cannot be reached.

    Args:
        mode: "online"; "offline", to be uploaded by `emorec runs sync`; "disabled".
        project: in W&B.
        entity: the team or user in W&B; `None` for the default of the API key.
        timeout: seconds to wait for W&B at the start and at the end of a run.
        system_metrics: whether the use of processor, memory and GPU is logged.
    """

    def __init__(
        self,
        *,
        mode: Literal["online", "offline", "disabled"] = "online",
        project: str = "emorec",
        entity: str | None = None,
        timeout: Positive = 60.0,
        system_metrics: bool = True,
    ) -> None:
        self.mode, self.project, self.entity = mode, project, entity
        self.timeout, self.system_metrics = float(timeout), system_metrics
        self._run: Any = None
        self._failed = False
        self._environment = ExitStack()
        self._run_id = ""

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        if self.mode == "disabled":
            return
        for path in (folder / FOLDER / "settings", folder / FOLDER):
            if path.is_symlink() or path.is_file():  # W&B would send the key to the server that such a file names
                log.warning("expected no %s in the directory of a run, got one: W&B is left out", path)
                return
        self._run_id = record.run_id
        consequence = {"online": f"run {self._run_id} is kept offline, {self._hint()}", "offline": WITHOUT}
        for mode in ("online", "offline") if self.mode == "online" else ("offline",):
            self._environment.enter_context(_environment(folder))
            self._attempt(partial(self._open, mode, record, config, folder), consequence[mode])
            if self._run is not None:
                self._attempt(lambda: self._describe(record, folder))
                return
            self._environment.close()

    def epoch(self, row: Mapping[str, float]) -> None:
        if self._run is not None and not self._failed:
            # with the epoch as step, W&B ignores the epochs that a resumed run passes again
            self._attempt(lambda: self._run.log(dict(row), step=int(row["epoch"]), commit=True))

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        if self._run is not None and not self._failed:
            self._attempt(lambda: self._conclude(record, metrics))

    def closed(self, status: str) -> None:
        with self._environment:
            if self._run is not None:  # also after an error, so that W&B does not show it as finished
                self._attempt(lambda: self._finish(status), self._hint())

    def _hint(self) -> str:
        return f"emorec runs sync {self._run_id} uploads it later"

    def _attempt(self, action: Callable[[], None], consequence: str | None = None) -> None:
        """Calls W&B. The first error is reported with its consequence, and the training goes on."""
        try:
            action()
        except Exception as error:  # when its service dies, W&B raises errors of its private modules
            reason = " ".join(str(error).split())[:REASON_CHARACTERS] or type(error).__name__
            if not self._failed:
                log.warning("W&B fails (%s): %s", reason, consequence or f"{WITHOUT}; {self._hint()}")
            if self._run is not None:
                self._failed = True
                self._mark_unsent(reason)

    def _mark_unsent(self, reason: str = "") -> None:
        folder = Path(self._run.settings.sync_dir)
        if folder.is_dir():
            (folder / UNSENT).write_text(reason)

    def _unmark(self) -> None:
        """Removes the marks of an online run that ended without an error, and of its earlier starts that were killed.

        A later upload of these would replace the results by what was known then. Marks that hold an error stay.
        """
        for mark in Path(self._run.settings.sync_dir).parent.glob(f"run-*-{self._run.id}/{UNSENT}"):
            with suppress(FileNotFoundError):  # uploaded in the meantime
                if mark.stat().st_size == 0:
                    mark.unlink()

    def _open(self, mode: str, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        import wandb

        make_folder(folder / FOLDER)  # not by W&B, whose folder a colleague who resumes the run could not write to
        if mode == "online" and not _has_key():
            raise wandb.errors.UsageError("found no API key in WANDB_API_KEY or ~/.netrc")
        self._run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=self.project,
            entity=self.entity,
            id=tracking_name(record),
            name=tracking_name(record),
            group=config["sweep"]["name"],
            job_type="train",
            tags=record.tags,
            notes=record.notes,
            config=published_config(config),
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                root_dir=str(folder),
                init_timeout=self.timeout,
                finish_timeout=self.timeout,
                finish_timeout_raises=True,
                x_disable_stats=not self.system_metrics,
                **PRIVATE,
            ),
        )
        if mode == "online":
            self._mark_unsent()  # now, since a kill leaves no time for it
        share(folder / FOLDER)

    def _describe(self, record: RunRecord, folder: Path) -> None:
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
        self._run.summary.update(
            {"run_id": record.run_id, "group_id": record.group_id, "run_directory": str(folder), "status": "running"}
        )

    def _conclude(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        import wandb

        timings = {f"seconds/{step}": value for step, value in record.timings.items()}
        own = {"best_epoch": record.best_epoch, "epochs": record.epochs}
        self._run.summary.update({**scalar_metrics(metrics), **own, **timings})
        media: dict[str, Any] = {name: wandb.Image(image) for name, image in confusion_images(metrics).items()}
        for name, rows in metrics.items():
            if name.endswith("/per_class"):
                columns = list(next(iter(rows.values()), {}))
                data = [[label, *(row[column] for column in columns)] for label, row in rows.items()]
                media[name] = wandb.Table(columns=["class", *columns], data=data)
        if media:
            self._run.log(media)

    def _finish(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=EXIT_CODES.get(status, 1))
        self._unmark()
        self._run = None


def _has_key() -> bool:
    """Whether W&B finds an API key; without one it would ask for it on the terminal."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(wandb.setup().settings.base_url).netloc
    own = os.environ.get("NETRC")
    for path in [Path(own).expanduser()] if own else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """W&B writes only to the directory of a run; afterwards W&B has ended, and environment and hooks are restored."""
    import wandb

    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    leave, hook = sys.exit, sys.excepthook  # W&B replaces them
    os.environ.update(folders_to_environment(folder))
    try:
        yield
    finally:
        try:
            wandb.teardown()
        except (Exception, SystemExit) as error:  # W&B exits where its own service has died
            log.debug("W&B did not end well: %s", error)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)
        sys.exit, sys.excepthook = leave, hook  # type: ignore[assignment]
        tidy(folder)
