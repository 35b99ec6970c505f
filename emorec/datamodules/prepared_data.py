"""A corpus with its features, split: what a run is trained on."""

from dataclasses import dataclass

import torch

from emorec.config.schema import TrainConfig
from emorec.datamodules.utterances import Reader, UtteranceDataModule
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import Task, Utterance
from emorec.features.extraction import ExtractionReport
from emorec.features.spec import FeatureSpec
from emorec.storage.digests import digest_of


@dataclass(frozen=True)
class PreparedFeatures:
    """The features of one modality for N utterances.

    Attributes:
        specs: what identifies them: one for each layer, and with augmented views one more for each layer.
        report: what was found and computed, views aside.
        reader: index n holds the n-th utterance's features, index n + v · N those of its view v.
        sources: digest over what the encoder reads, in the order of the utterances.
        layers: how many layers' features lie side by side.
        views: how many augmented views there are of each utterance.
    """

    specs: tuple[FeatureSpec, ...]
    report: ExtractionReport
    reader: Reader
    sources: str
    layers: int = 1
    views: int = 0

    @property
    def digest(self) -> str:
        """Identifies them: the spec's digest where there is one spec."""
        digests = [spec.digest for spec in self.specs]
        return digests[0] if len(digests) == 1 else digest_of([*digests, self.views])


@dataclass(frozen=True)
class PreparedData:
    """A corpus with its features, split.

    Attributes:
        corpus: as configured.
        manifest: the whole corpus.
        task: what is predicted.
        splits: {split: its utterances that have a modality}.
        features: {modality: features of all splits' utterances}.
        indices: {split: (N,) indices into the features' readers}.
        count: how many utterances the readers hold.
        bad: {modality: number of utterances whose media cannot be used}.
        left_out: number of utterances without any modality.
    """

    corpus: Corpus
    manifest: Manifest
    task: Task
    splits: dict[str, tuple[Utterance, ...]]
    features: dict[str, PreparedFeatures]
    indices: dict[str, torch.Tensor]
    count: int
    bad: dict[str, int]
    left_out: int

    def module(self, config: TrainConfig) -> UtteranceDataModule:
        """The batches of the three splits."""
        return UtteranceDataModule(
            manifest=self.manifest,
            splits=self.splits,
            task=self.task,
            readers={modality: features.reader for modality, features in self.features.items()},
            indices=self.indices,
            batch_size=config.batch_size,
            batch_size_per=config.batch_size_per,
            seed=config.seed,
            layers={modality: features.layers for modality, features in self.features.items()},
            views={modality: features.views for modality, features in self.features.items()},
            stride=self.count,
        )
