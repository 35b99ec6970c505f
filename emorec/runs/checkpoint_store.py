"""The directories of runs, and the store of weights that they link to."""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from emorec.annotations import Pattern
from emorec.config.validation import validated
from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.runs.identity import RunIdentity
from emorec.runs.weights import (
    FILE_FOLDERS,
    SUFFIX,
    WEIGHTS,
    load_components,
    publish_folder,
    weight_folders,
)
from emorec.storage.atomic import make_folder, remove_orphans, write_json
from emorec.storage.documents import read_object, read_yaml
from emorec.storage.folders import check_links, check_real_folder, list_folder, remove

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

ENSEMBLES, MATRICES = "ensembles", "matrices"  # results of several runs
OTHER_FOLDERS = (WEIGHTS, "report", "studies", "sweeps", ENSEMBLES, MATRICES)  # of a store, beside those of runs
NEURAL = "neural"  # the choice of the group `head` that runs have which do not name one
CLAIM = "claim.json"  # in the directory of a run that a process trains
FileName = Annotated[str, Pattern(r"\w+", "letters and digits")]  # a part of the name of files


@dataclass(kw_only=True)
class RunRecord:
    """`run.json`."""

    run_id: FileName  # 12 hex digits, the name of the directory
    group_id: FileName  # equal for runs that differ only in seed and fold
    identity: str  # digest of the whole identity
    status: str  # "running", "finished", "failed" or "interrupted"
    seed: int
    fold: int | None  # fold of the protocol
    task: dict[str, Any]  # {name, labels, monitor, direction}
    other_tasks: list[dict[str, Any]] = field(default_factory=list)  # learned beside `task`
    choices: dict[str, str]  # {config group: name} of the composed config
    overrides: list[str]  # of the command line
    started: str  # ISO 8601 time of the (last) start
    ended: str | None = None  # ISO 8601 time of the end
    timings: dict[str, float] = field(default_factory=dict)  # {step: seconds}
    epochs: int = 0  # number of trained epochs
    best_epoch: int | None = None  # the epoch whose weights are kept, chosen on validation; of several, the last
    averaged_epochs: list[int] = field(default_factory=list)  # the epochs whose mean weights are kept
    chosen: dict[str, float] = field(default_factory=dict)  # {parameter of a classical head: value} that is kept
    data: dict[str, Any] = field(default_factory=dict)  # digest of the corpus, utterances, bad media, notes
    weights: dict[str, str] = field(default_factory=dict)  # {component: sha256 of its file}
    # {path in the directory: sha256} of adapters in peft's layout and of stored checkpoints of encoders
    files: dict[str, str] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)  # {modality: folder of its features in the cache}
    # {modality: specs of its features, one for each layer, with resolved revisions}
    feature_specs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    test_reads: list[dict[str, str]] = field(default_factory=list)  # time and reason of each reading of the test split
    provenance: dict[str, Any] = field(default_factory=dict)  # code, versions, machine
    error: str | None = None  # last line of the error of a failed run
    attempts: int = 1  # number of starts
    restarts: int = 0  # number of starts from scratch, after a failure or by `rerun`; the others resumed
    tags: list[str] = field(default_factory=list)  # of the last start
    notes: str | None = None  # of the last start
    schema: int = 1  # version of this file

    @property
    def selected(self) -> str:
        """Whose weights the run keeps, in words."""
        if self.chosen:
            return ", ".join(f"{name}={value:g}" for name, value in self.chosen.items())
        several = self.averaged_epochs
        return f"the mean of epochs {several[0]} to {several[-1]}" if several else f"best epoch {self.best_epoch}"

    def problems(self) -> Iterator[str]:
        for name in self.weights:
            if Path(name).name != name or name.startswith("."):
                yield f"weights: expected names of files, got {name!r}"
        for name in self.files:
            parts = name.split("/")
            if len(parts) != 3 or parts[0] not in FILE_FOLDERS or any(part in ("", ".", "..") for part in parts):
                yield f"files: expected paths such as {FILE_FOLDERS[0]}/text/config.json, got {name!r}"

    @property
    def published(self) -> dict[str, str]:
        """{path in the directory: sha256} of all weights and of `files`."""
        return {**{f"model/{name}{SUFFIX}": digest for name, digest in self.weights.items()}, **self.files}


def stored_task(values: Mapping[str, Any]) -> Task:
    """A task as a record has it."""
    cuts = tuple(tuple(thresholds) for thresholds in values.get("cuts", ()))
    return Task(**{**values, "labels": tuple(values["labels"]), "cuts": cuts})


def read_record(folder: Path) -> RunRecord | None:
    """Reads the record in a directory; `None` if there is none.

    Raises:
        UserError: `run.json` is not a readable record.
    """
    path, what = folder / "run.json", "the record of a run"
    values = read_object(path, what)
    return None if values is None else validated(RunRecord, values, heading=f"expected {what} in {path}")


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes the record of the run in a directory."""
    write_json(folder / "run.json", asdict(record))


def run_folders(root: Path, prefix: str = "") -> list[Path]:
    """The directories in a store that have a record, or that this user cannot look into. Hidden ones are left out: they
    are removed right now."""

    def has_record(folder: Path) -> bool:
        try:
            (folder / "run.json").lstat()
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)
        return True

    folders = [folder for folder in list_folder(root, f"{prefix}*") if not folder.name.startswith(".")]
    return [folder for folder in folders if has_record(folder)]


def runs_in(folders: Iterable[Path]) -> list[tuple[RunRecord, Path]]:
    """The records and directories of runs, such as exported ones, by time of start.

    Each of `folders` holds the directories of runs, which may have any names, or is one. Warnings name what is left
    out: links, damaged directories, and further ones of the same run.
    """
    runs: dict[str, tuple[RunRecord, Path]] = {}
    nested = ([path] if (path / "run.json").is_file() else run_folders(path) for path in map(Path.resolve, folders))
    for folder in chain.from_iterable(nested):
        try:
            check_real_folder(folder)
            record = read_record(folder)
        except (OSError, UserError) as error:
            log.warning("%s is left out: %s", folder, error)
            continue
        if record is not None and runs.setdefault(record.run_id, (record, folder))[0] is not record:
            log.warning("%s is left out: it is the same run as %s", folder, runs[record.run_id][1])
    return sorted(runs.values(), key=lambda run: run[0].started)


class CheckpointStore:
    """The folder `checkpoints/`: a directory for each run, and `weights/`, which stores equal weights once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._named: set[Path] = set()  # directories of which a warning was given

    def folder(self, run_id: str) -> Path:
        """The directory of a run.

        Raises:
            UserError: the id is no name of a directory.
        """
        if Path(run_id).name != run_id or run_id in ("", "..", *OTHER_FOLDERS):
            raise UserError(f"expected the id of a run, got {run_id!r}")
        return self.root / run_id

    def read(self, run_id: str) -> RunRecord | None:
        """Reads the record of a run; `None` if there is no such run.

        Raises:
            UserError: `run.json` is not a readable record, or is that of another run.
        """
        folder = self.folder(run_id)
        if folder.is_symlink():
            raise UserError(f"expected the directory of run {run_id}, got a link: {folder}")
        record = read_record(folder)
        if record is not None and record.run_id != run_id:
            raise UserError(f"expected the record of run {run_id} in {folder}, got that of {record.run_id}")
        return record

    def write(self, record: RunRecord) -> None:
        """Writes the record of a run."""
        write_record(self.folder(record.run_id), record)

    def check_identity(self, identity: RunIdentity) -> RunRecord | None:
        """Reads the record of a run by its identity; `None` if there is no such run.

        Raises:
            UserError: the directory belongs to a run with another identity.
        """
        record = self.read(identity.run_id)
        if record is not None and record.identity != identity.digest:
            raise UserError(
                f"expected identity {identity.digest} in {self.folder(identity.run_id)}, got {record.identity}: "
                "another run has this directory; move it away (nothing was changed)"
            )
        return record

    def scan(self, prefix: str = "") -> tuple[list[RunRecord], dict[Path, str]]:
        """The records of the runs whose ids start with `prefix`, by time of start, and {directory: why it is left out}
        of directories that are copied, renamed or damaged."""
        records, odd = [], {}
        for folder in run_folders(self.root, prefix):
            try:
                records.append(self.read(folder.name))
            except UserError as error:
                odd[folder] = str(error)
        return sorted((record for record in records if record is not None), key=lambda record: record.started), odd

    def records(self) -> Iterator[RunRecord]:
        """The records of all runs, by time of start. Of each directory that is left out a warning is given once."""
        records, odd = self.scan()
        for folder, reason in odd.items():
            self.warn(folder, f"{folder.name} is left out: {reason}")
        yield from records

    def warn(self, folder: Path, message: str) -> None:
        """Logs a warning about a directory, the first time."""
        if folder not in self._named:
            self._named.add(folder)
            log.warning("%s", message)

    def find(self, prefix: str) -> RunRecord:
        """Reads the record of the run whose id starts with `prefix`.

        Raises:
            UserError: no run or several runs match.
        """
        records, odd = self.scan(prefix) if prefix.isalnum() else ([], {})
        if len(records) == 1:
            return records[0]
        if odd and not records:
            raise UserError(next(iter(odd.values())))
        names = sorted(record.run_id for record in records)
        raise UserError(f"expected one run that starts with {prefix!r} in {self.root}, got {names or 'none'}")

    def locate(self, run: str) -> tuple[RunRecord, Path]:
        """The record and the directory of a finished run, by its id, the first digits of its id, or the path of its
        directory, which need not lie in this store, nor have its id as a name.

        Raises:
            UserError: there is no such run, several match, or it is not finished.
        """
        folder = Path(run).expanduser().absolute()
        record = read_record(folder)
        if record is None:
            if len(Path(run).parts) != 1:
                raise UserError(f"expected the directory of a run, got {folder}, which has no run.json")
            record = self.find(run)
            folder = self.folder(record.run_id)
        if record.status != "finished":
            raise UserError(f"expected a finished run, got {record.run_id}, which is {record.status}")
        return record, folder

    def check_links(self, folder: Path) -> None:
        """Raises an `OSError` where a run's directory holds links out of it, other than those to its weights."""
        weights = os.path.realpath(folder.parent / WEIGHTS)

        def is_of_weights(path: Path) -> bool:
            return path.parent in weight_folders(folder) and os.path.dirname(os.path.realpath(path)) == weights  # noqa: PTH120

        check_links(folder, allowed=is_of_weights)

    def publish(self, run_id: str, components: "Mapping[str, Mapping[str, Tensor]]") -> dict[str, str]:
        """Stores {component: its weights} by content, links them into `model/` of a run, and returns {component: sha256
        of its file}."""
        from safetensors.torch import save

        # without metadata, so that equal weights have equal bytes
        files = {f"{name}{SUFFIX}": save(dict(weights)) for name, weights in components.items()}
        published = publish_folder(self.root, self.folder(run_id) / "model", files)
        return {name.removesuffix(SUFFIX): digest for name, digest in published.items()}

    def publish_files(
        self, run_id: str, part: str, folders: Mapping[str, Mapping[str, bytes | Path]]
    ) -> dict[str, str]:
        """Publishes {modality: {name: content, or a file to copy}} below the folder `part` of a run, weights as
        `publish` does, and removes what else is there; returns {path in the run's directory: sha256}."""
        check_real_folder(folder := self.folder(run_id) / part)
        for old in list_folder(folder):
            if old.name not in folders:
                remove(old)
        published = {
            modality: publish_folder(self.root, folder / modality, files) for modality, files in folders.items()
        }
        return {
            f"{part}/{modality}/{name}": digest
            for modality, digests in published.items()
            for name, digest in digests.items()
        }

    def load(self, record: RunRecord) -> "dict[str, dict[str, Tensor]]":
        """Loads {component: its weights} of a finished run; see `load_components`."""
        return load_components(self.folder(record.run_id), record.weights)

    def prepare(self, run_id: str, *, keep_resume: bool) -> Path:
        """Creates or cleans the directory of a run before a start; `keep_resume` keeps the states to resume from.

        Raises:
            OSError: the directory holds a link out of it: what the run writes would land there.
        """
        folder = make_folder(self.folder(run_id))
        self.check_links(folder)
        for path in (folder, *weight_folders(folder), folder / "resume", self.root / WEIGHTS):
            remove_orphans(path)
        if not keep_resume:
            shutil.rmtree(folder / "resume", ignore_errors=True)
            log_file = folder / "log.txt"
            if log_file.exists():
                number = 1 + len(list(folder.glob("log.*.txt")))
                log_file.rename(folder / f"log.{number}.txt")
        return folder


def stored_config(folder: Path) -> dict[str, Any]:
    """Reads the config of a run as plain data. It is resolved already: whatever `${…}` stands in it is a text.

    Raises:
        UserError: it is no config.
    """
    path = folder / "config.yaml"
    try:
        return read_yaml(path, follow=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"expected the config of a run in {path}: {error.strerror}") from error
