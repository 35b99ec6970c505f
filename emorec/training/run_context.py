"""Everything that one run is made of, made once and handed on."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from emorec.config.composition import Composed
from emorec.config.schema import TrainConfig
from emorec.datamodules.leakage import check_not_trained_on, check_splits_apart
from emorec.datamodules.prepared_data import PreparedData
from emorec.datamodules.preparer import DataPreparer
from emorec.datamodules.split_checks import check_classes, check_sizes
from emorec.datasets.splits import speaker_overlap
from emorec.datasets.utterance import UNLABELLED, Task
from emorec.encoders.checkpoint import LOCAL
from emorec.encoders.encoder import Encoder
from emorec.loggers.base import RunLogger
from emorec.loggers.factory import make_loggers
from emorec.models.automatic_loss import task_of, with_loss_of
from emorec.models.builder import ModelParts, check_monitor, check_votes, make_parts
from emorec.models.other_tasks import others_of
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.identity import RunIdentity, identify
from emorec.runs.provenance import provenance
from emorec.storage.digests import digest_of
from emorec.training.initial_weights import InitialWeights, find_initial
from emorec.training.teacher import check_teacher, find_teacher


def now() -> str:
    """The time with its zone, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@dataclass(frozen=True)
class RunContext:
    """One run."""

    composed: Composed[TrainConfig]
    data: PreparedData
    parts: ModelParts
    loggers: tuple[RunLogger, ...]
    identity: RunIdentity
    store: CheckpointStore
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    initial: InitialWeights | None = None
    taught: dict[str, Tensor] = field(default_factory=dict)  # a teacher's predictions for the training split

    @property
    def config(self) -> TrainConfig:
        return self.composed.config

    @property
    def reads_test(self) -> bool:
        """Whether the test split is read: not where the config says so, nor where nothing is predicted."""
        return self.config.test and self.data.task != UNLABELLED

    @property
    def folder(self) -> Path:
        """The run's directory."""
        return self.store.folder(self.identity.run_id)

    def new_record(self, earlier: RunRecord | None, *, resumes: bool) -> RunRecord:
        """The record of a start. `resumes`: it goes on where the start of the record `earlier` was interrupted."""
        config, data = self.config, self.data
        return RunRecord(
            run_id=self.identity.run_id,
            group_id=self.identity.group_id,
            identity=self.identity.digest,
            status="running",
            seed=config.seed,
            fold=data.corpus.fold,
            task=_stored(data.task),
            other_tasks=[_stored(item) for item in data.others],
            choices=self.composed.choices,
            overrides=self.composed.overrides,
            started=now(),
            data={
                "dataset": data.manifest.dataset,
                "corpus": data.manifest.digest,
                "protocol": data.corpus.protocol,
                "separates": _separates(data),
                **({"shares_speakers": True} if _shares_speakers(data) else {}),
                "utterances": {split: len(items) for split, items in data.splits.items()},
                "bad_media": data.bad,
                "left_out": data.left_out,
                "notes": list(data.manifest.notes),
                "normalisation": "speaker" if config.model.is_by_speaker else config.model.normalisation,
            },
            features={modality: item.specs[0].folder_name for modality, item in data.features.items()},
            feature_specs={modality: data.specs(modality) for modality in data.features},
            test_reads=list(earlier.test_reads) if earlier is not None else [],
            provenance=provenance(),
            attempts=1 + (earlier.attempts if earlier is not None else 0),
            restarts=earlier.restarts + (not resumes) if earlier is not None else 0,
            tags=list(config.tags),
            notes=config.notes,
        )


def _separates(data: PreparedData) -> str:
    """Whose utterances are never in two splits: "speakers", or "" for nobody's."""
    protocol = data.manifest.protocols.get(data.corpus.protocol)
    return "speakers" if protocol is not None and protocol.separates_speakers else ""


def _shares_speakers(data: PreparedData) -> bool:
    """Whether speakers are in train and test by intent."""
    protocol = data.manifest.protocols.get(data.corpus.protocol)
    splits = {split: data.splits[split] for split in ("train", "test")}
    return protocol is not None and protocol.shares_speakers and bool(speaker_overlap(splits))


def _stored(task: Task) -> dict[str, Any]:
    """A task as the record of a run has it; see `stored_task`."""
    values = asdict(task)
    kept = {key: values[key] for key in ("name", "kind", "labels", "monitor", "direction")}
    return {**kept, "cuts": task.cuts} if task.cuts else kept


def prepare_run(
    composed: Composed[TrainConfig],
    preparer: DataPreparer,
    loggers: Sequence[RunLogger] = (),
    *,
    load_features: bool = True,
) -> RunContext:
    """Makes everything that a run needs and computes the features that are missing.

    Args:
        composed: the config.
        preparer: what the runs of this process share.
        loggers: beside those of the config.
        load_features: whether features are loaded as the config says; not in a process that leaves training to others.

    Raises:
        UserError: the config or the data is not as expected.
    """
    corpus, encoders = preparer.components(composed.config)
    all_loggers = (*make_loggers(composed.config.logger), *loggers)
    manifest = preparer.manifest(composed.config, corpus)
    task = task_of(composed.config, corpus, manifest)
    other_tasks = others_of(composed.config, task, manifest)
    composed = with_loss_of(composed, task)
    config = composed.config
    if not load_features:
        config = replace(config, features=replace(config.features, preload="none"))
    preparer.fit(config, corpus, encoders, task)
    parts = make_parts(config, task, encoders, other_tasks)
    check_monitor(parts, task)
    check_votes(parts.loss, task, manifest)
    store = CheckpointStore(config.paths.checkpoints)
    initial = find_initial(config, store)  # before features are computed
    teacher = find_teacher(config, parts.loss, task.labels, store)
    dialogues = config.context is not None
    data = preparer.prepare(config, corpus, encoders, task, dialogues=dialogues, others=other_tasks)
    check_classes(task, data.splits)
    check_sizes(data.splits, config.trainer.world_size, data.turns)
    check_splits_apart(data)
    if initial is not None:
        check_not_trained_on(data, "test", initial.folder, where="init_from: ")
    if teacher is not None:
        check_teacher(teacher, data)
    others: dict[str, Any] = {}  # runs count by their weights
    if initial is not None:
        others["init_from"] = initial.digests
    learned = dict(data.learned)
    if teacher is not None:  # each fold of a group has its own
        others["distillation"] = {"teacher": "a run"}
        learned["teacher"] = digest_of(teacher.digests)
    identity = identify(
        {**composed.values, **others},
        manifest_digest=data.manifest.digest,
        feature_specs={modality: data.digest(modality) for modality in data.features},
        sources={modality: item.sources for modality, item in data.features.items()},
        learned=learned,
        local_models=frozenset(
            name for name in data.features if any(spec["checkpoint"] == LOCAL for spec in data.specs(name))
        ),
    )
    taught = {} if teacher is None else teacher.predictions(composed, preparer, data)
    return RunContext(composed, data, parts, all_loggers, identity, store, encoders, initial, taught)
