"""The directories of runs, and the store of weights that they link to."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from emorec.errors import UserError
from emorec.runs.identity import RunIdentity
from emorec.storage.atomic import make_folder, remove_orphans, write_bytes, write_json
from emorec.storage.folders import list_folder
from emorec.storage.links import link_relative

log = logging.getLogger(__name__)

WEIGHTS = "weights"
SUFFIX = ".safetensors"
DOOMED = ".doomed"  # suffix of the mark of a weight file that a collection is about to remove
DOOMED_SECONDS = 10.0  # after which the collection counts as dead
CLAIM = "claim.json"  # in the directory of a run that a process trains


@dataclass(kw_only=True)
class RunRecord:
    """`run.json`."""

    run_id: str  # 12 hex digits, the name of the directory
    group_id: str  # equal for runs that differ only in seed and fold
    identity: str  # digest of the whole identity
    status: str  # "running", "finished", "failed" or "interrupted"
    seed: int
    fold: int | None  # fold of the protocol
    task: dict[str, Any]  # {name, labels, monitor, direction}
    choices: dict[str, str]  # {config group: name} of the composed config
    overrides: list[str]  # of the command line
    started: str  # ISO 8601 time of the (last) start
    ended: str | None = None  # ISO 8601 time of the end
    timings: dict[str, float] = field(default_factory=dict)  # {step: seconds}
    epochs: int = 0  # number of trained epochs
    best_epoch: int | None = None  # the epoch whose weights are kept, chosen on validation
    data: dict[str, Any] = field(default_factory=dict)  # utterances by split, bad media, notes about the corpus
    weights: dict[str, str] = field(default_factory=dict)  # {component: sha256 of its file}
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


class CheckpointStore:
    """The folder `checkpoints/`: a directory for each run, and `weights/`, which stores equal weights once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, run_id: str) -> Path:
        """The directory of a run."""
        return self.root / run_id

    def read(self, run_id: str) -> RunRecord | None:
        """Reads the record of a run; `None` if there is no such run.

        Raises:
            UserError: `run.json` is not a readable record.
        """
        path = self.folder(run_id) / "run.json"
        try:
            return RunRecord(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"expected the record of a run in {path}, got {error}") from error

    def write(self, record: RunRecord) -> None:
        """Writes the record of a run."""
        write_json(self.folder(record.run_id) / "run.json", asdict(record))

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

    def records(self) -> Iterator[RunRecord]:
        """The records of all runs, by time of start. Unreadable records are logged and left out."""
        records = []
        for path in list_folder(self.root, "*/run.json"):
            try:
                records.append(self.read(path.parent.name))
            except UserError as error:
                log.warning("%s", error)
        yield from sorted((record for record in records if record is not None), key=lambda record: record.started)

    def find(self, prefix: str) -> RunRecord:
        """Reads the record of the run whose id starts with `prefix`.

        Raises:
            UserError: no run or several runs match.
        """
        names = [path.parent.name for path in list_folder(self.root, f"{prefix}*/run.json")] if prefix.isalnum() else []
        record = self.read(names[0]) if len(names) == 1 else None
        if record is None:
            raise UserError(f"expected one run that starts with {prefix!r} in {self.root}, got {names or 'none'}")
        return record

    def publish(self, run_id: str, components: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
        """Stores {component: its weights} by content, links them into `model/` of a run, and returns {component: sha256
        of its file}."""
        from safetensors.torch import save

        digests = {}
        for name, weights in components.items():
            content = save(dict(weights))  # without metadata, so that equal weights have equal bytes
            digest = hashlib.sha256(content).hexdigest()
            blob = self.root / WEIGHTS / f"{digest}{SUFFIX}"
            link = self.folder(run_id) / "model" / f"{name}{SUFFIX}"
            while True:
                try:
                    os.utime(blob)  # so that a collection at the same time keeps it
                except (FileNotFoundError, PermissionError):  # another user's, of a store that the group cannot write
                    write_bytes(blob, content)
                if not link_relative(blob, link):
                    log.warning("%s does not support links: copied the weights of %s", self.root, name)
                _wait_for_collection(blob)
                if link.exists():
                    break
            digests[name] = digest
        for old in list_folder(self.folder(run_id) / "model", f"*{SUFFIX}"):
            if old.name.removesuffix(SUFFIX) not in components:
                old.unlink(missing_ok=True)
        return digests

    def load(self, record: RunRecord) -> dict[str, dict[str, Tensor]]:
        """Loads {component: its weights} of a finished run.

        Raises:
            UserError: a file is missing or does not match its digest.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        components = {}
        for name, digest in record.weights.items():
            path = self.folder(record.run_id) / "model" / f"{name}{SUFFIX}"
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"expected the weights of run {record.run_id} in {path}: {error.strerror}") from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise UserError(f"expected weights of digest {digest} in {path}, got another: the file is damaged")
            try:
                components[name] = load(content)
            except SafetensorError as error:
                raise UserError(f"expected a safetensors file in {path}: {error}") from error
        return components

    def prepare(self, run_id: str, *, keep_resume: bool) -> Path:
        """Creates or cleans the directory of a run before a start; `keep_resume` keeps the states to resume from."""
        folder = make_folder(self.folder(run_id))
        for path in (folder, folder / "model", folder / "resume", self.root / WEIGHTS):
            remove_orphans(path)
        if not keep_resume:
            shutil.rmtree(folder / "resume", ignore_errors=True)
            log_file = folder / "log.txt"
            if log_file.exists():
                number = 1 + len(list(folder.glob("log.*.txt")))
                log_file.rename(folder / f"log.{number}.txt")
        return folder


def _wait_for_collection(blob: Path) -> None:
    """Waits while a collection is about to remove a weight file."""
    mark = blob.with_name(blob.name + DOOMED)
    end = time.monotonic() + DOOMED_SECONDS
    while mark.exists():
        if time.monotonic() > end:
            mark.unlink(missing_ok=True)
        time.sleep(0.001)


def stored_config(folder: Path) -> dict[str, Any]:
    """Reads the config of a run as plain data."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
