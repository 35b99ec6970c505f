"""What runs are made of: a corpus with its features, split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from emorec.config.composition import Composed
from emorec.datamodules.utterances import Reader, UtteranceDataModule
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import Task, Utterance
from emorec.encoders.checkpoint import LOCAL
from emorec.features.extraction import ExtractionReport
from emorec.features.spec import FeatureSpec
from emorec.runs.identity import RunIdentity, identify
from emorec.storage.digests import digest_of


@dataclass(frozen=True)
class Features:
    """The features of one modality for a list of utterances.

    Attributes:
        specs: what they are: one for each layer, and for the augmented views one more for each.
        report: what was found and computed, views aside.
        reader: place n holds the n-th utterance's features, place n + v · N those of its view v.
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
    def spec(self) -> FeatureSpec:
        """Of the first layer."""
        return self.specs[0]

    @property
    def digest(self) -> str:
        """Identifies them: the spec's digest where there is one spec."""
        digests = [spec.digest for spec in self.specs]
        return digests[0] if len(digests) == 1 else digest_of([*digests, self.views])


@dataclass(frozen=True)
class Data:
    """A corpus with its features, split.

    Attributes:
        corpus: as configured.
        manifest: the whole corpus.
        task: what is predicted.
        splits: {split: its utterances that have a modality}.
        features: {modality: features of all splits' utterances}.
        places: {split: (N,) places in the features' readers}.
        chosen: how many utterances the readers have places for.
        bad: {modality: number of utterances whose media cannot be used}.
        left_out: utterances without any modality.
    """

    corpus: Corpus
    manifest: Manifest
    task: Task
    splits: dict[str, tuple[Utterance, ...]]
    features: dict[str, Features]
    places: dict[str, torch.Tensor]
    chosen: int
    bad: dict[str, int]
    left_out: int

    def module(self, config: Mapping[str, Any]) -> UtteranceDataModule:
        """The batches of the three splits."""
        return UtteranceDataModule(
            manifest=self.manifest,
            splits=self.splits,
            task=self.task,
            readers={modality: features.reader for modality, features in self.features.items()},
            places=self.places,
            batch_size=config["batch_size"],
            batch_size_per=config["batch_size_per"],
            seed=config["seed"],
            layers={modality: features.layers for modality, features in self.features.items()},
            views={modality: features.views for modality, features in self.features.items()},
            stride=self.chosen,
        )


def identify_run(composed: Composed, data: Data) -> RunIdentity:
    """The identity of the run that a config and its data define."""
    return identify(
        composed.config,
        manifest_digest=data.manifest.digest,
        feature_specs={modality: item.digest for modality, item in data.features.items()},
        sources={modality: item.sources for modality, item in data.features.items()},
        local_models=frozenset(name for name, item in data.features.items() if item.spec.checkpoint == LOCAL),
    )
