"""A corpus with its features, split: what a run is trained on."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from emorec.config.schema import TrainConfig
from emorec.datamodules.statistics import Reader
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import Task, Utterance
from emorec.features.extraction import ExtractionReport
from emorec.features.spec import FeatureSpec
from emorec.storage.digests import digest_of


@dataclass(frozen=True)
class PreparedFeatures:
    """The features of one modality for N utterances."""

    specs: tuple[FeatureSpec, ...]  # one for each layer, and with augmented views one more for each layer
    report: ExtractionReport  # what was found and computed, views aside
    reader: Reader  # index n holds the n-th utterance's features, index n + v · N those of its view v
    sources: str  # digest over what the encoder reads, in the order of the utterances
    layers: int = 1  # whose features lie side by side
    views: int = 0  # augmented ones of each utterance

    @property
    def digest(self) -> str:
        """Identifies them, less the state that the encoder learned: the spec's digest where there is one spec."""
        digests = [replace(spec, state=None).digest for spec in self.specs]
        return digests[0] if len(digests) == 1 else digest_of([*digests, self.views])


@dataclass(frozen=True)
class PreparedData:
    """A corpus with its features, split."""

    corpus: Corpus
    manifest: Manifest  # the whole corpus
    task: Task
    splits: dict[str, tuple[Utterance, ...]]  # {split: its utterances that have a modality, or turns with a context}
    features: dict[str, PreparedFeatures]  # {modality: features of all splits' utterances}
    indices: dict[str, torch.Tensor]  # {split: (N,) indices into the features' readers}, of its turns or utterances
    count: int  # of utterances in the readers
    bad: dict[str, int]  # {modality: number of utterances whose media cannot be used}
    left_out: int  # number of utterances without any modality
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)  # {modality: spec} of encoders that train
    turns: dict[str, tuple[Utterance, ...]] | None = None  # {split: all turns of its dialogues}, for a context
    others: tuple[Task, ...] = ()  # tasks that are learned beside `task`

    def digest(self, modality: str) -> str:
        """Identifies what the model reads of a modality, and the encoder that trains on it, less what it learned."""
        own = self.features[modality].digest
        return digest_of([own, {**self.trained[modality], "state": None}]) if modality in self.trained else own

    @property
    def learned(self) -> dict[str, str]:
        """{modality: digest of the state that its encoder learned from the training split}."""
        states = {modality: features.specs[0].state for modality, features in self.features.items() if features.specs}
        return {modality: state for modality, state in states.items() if state is not None}

    def specs(self, modality: str) -> list[dict[str, Any]]:
        """The specs of a modality's features, and of the encoder that trains on them."""
        stored = [asdict(spec) for spec in self.features[modality].specs]
        return [*stored, self.trained[modality]] if modality in self.trained else stored

    def module(self, config: TrainConfig) -> UtteranceDataModule:
        """The batches of the three splits."""
        return UtteranceDataModule(
            manifest=self.manifest,
            splits=self.turns or self.splits,
            task=self.task,
            readers={modality: features.reader for modality, features in self.features.items()},
            indices=self.indices,
            batch_size=config.batch_size,
            batch_size_per=config.batch_size_per,
            group_by_length=config.group_by_length,
            group_by_speaker=config.group_by_speaker,
            seed=config.seed,
            layers={modality: features.layers for modality, features in self.features.items()},
            views={modality: features.views for modality, features in self.features.items()},
            stride=self.count,
            live=frozenset(self.trained),
            others=self.others,
            scored=None if self.turns is None else {item.id for items in self.splits.values() for item in items},
        )
