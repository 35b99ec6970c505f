"""A run to be had."""

import time
from dataclasses import dataclass
from pathlib import Path

from emorec.config.composition import Composed
from emorec.datamodules.prepared_data import Data
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.identity import RunIdentity
from emorec.runs.provenance import provenance


def now() -> str:
    """The time with its zone, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@dataclass(frozen=True)
class Job:
    """A run to be had: its config, data and identity, and the store it goes to."""

    composed: Composed
    data: Data
    identity: RunIdentity
    store: CheckpointStore

    @property
    def folder(self) -> Path:
        return self.store.folder(self.identity.run_id)

    def new_record(self, earlier: RunRecord | None, *, resumes: bool = False) -> RunRecord:
        """The record of a start.

        Args:
            earlier: the record of the start before it.
            resumes: whether it goes on where that was interrupted.
        """
        config, data = self.composed.config, self.data
        return RunRecord(
            run_id=self.identity.run_id,
            group_id=self.identity.group_id,
            identity=self.identity.digest,
            status="running",
            seed=config["seed"],
            fold=config["dataset"]["fold"],
            task={
                "name": data.task.name,
                "kind": data.task.kind,
                "labels": list(data.task.labels),
                "monitor": data.task.monitor,
                "direction": data.task.direction,
            },
            choices=self.composed.choices,
            overrides=self.composed.overrides,
            started=now(),
            data={
                "dataset": data.manifest.dataset,
                "protocol": data.corpus.protocol,
                "utterances": {split: len(items) for split, items in data.splits.items()},
                "bad_media": data.bad,
                "left_out": data.left_out,
                "notes": list(data.manifest.notes),
            },
            features={modality: item.spec.folder_name for modality, item in data.features.items()},
            test_reads=list(earlier.test_reads) if earlier is not None else [],
            provenance=provenance(),
            attempts=1 + (earlier.attempts if earlier is not None else 0),
            restarts=earlier.restarts + (not resumes) if earlier is not None else 0,
            tags=list(config["tags"]),
            notes=config["notes"],
        )
