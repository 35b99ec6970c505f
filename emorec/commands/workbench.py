"""What the jobs of one process share: the manifest, the features and their readers are read once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emorec.batch import MODALITIES
from emorec.commands.composition import Composed
from emorec.configuration import instantiate
from emorec.datamodules.utterances import UtteranceDataModule
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import SPLITS, Task, Utterance
from emorec.encoders.checkpoint import LOCAL, use_digests
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError, raise_problems
from emorec.features.computation import ExtractionSettings
from emorec.features.extraction import ExtractionReport, extract
from emorec.features.reader import FeatureReader, ReadSettings
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore
from emorec.runs.identity import RunIdentity, identify
from emorec.storage.digests import FileDigests, digest_of

log = logging.getLogger(__name__)

SPLIT_KEYS = ("task", "protocol", "fold", "limit")  # of a dataset's config: they choose from the manifest


@dataclass(frozen=True)
class Features:
    """The features of one modality for a list of utterances.

    Attributes:
        spec: what they are.
        report: what was found and computed.
        reader: place n holds the n-th utterance's features.
        sources: digest over what the encoder reads, in the order of the utterances.
    """

    spec: FeatureSpec
    report: ExtractionReport
    reader: FeatureReader
    sources: str


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
        bad: {modality: number of utterances whose media cannot be used}.
        left_out: utterances without any modality.
    """

    corpus: Corpus
    manifest: Manifest
    task: Task
    splits: dict[str, tuple[Utterance, ...]]
    features: dict[str, Features]
    places: dict[str, torch.Tensor]
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
            seed=config["seed"],
        )


def workbench_for(config: Mapping[str, Any]) -> "Workbench":
    """The workbench that a config asks for."""
    return Workbench(Path(config["paths"]["cache"]), verify=config["extraction"]["verify"])


class Workbench:
    """Reads corpora and computes features for the configs of one process.

    Args:
        cache: the folder of features.
        verify: hash every file again, instead of trusting its size, times and inode.
    """

    def __init__(self, cache: Path, *, verify: bool = False) -> None:
        self.cache = cache
        self.digests = FileDigests(cache / "digests.tsv", verify=verify)
        use_digests(self.digests)
        self._manifests: dict[str, Manifest] = {}
        self._features: dict[str, Features] = {}

    def corpus(self, config: Mapping[str, Any]) -> Corpus:
        """The corpus of a config's `dataset`."""
        if config.get("dataset") is None:
            raise UserError("expected a dataset, such as dataset=demo")
        corpus = instantiate(config["dataset"], where="dataset")
        assert isinstance(corpus, Corpus)
        return corpus

    def manifest(self, config: Mapping[str, Any]) -> Manifest:
        """The whole corpus of a config's `dataset`, read once."""
        settings = {key: value for key, value in config["dataset"].items() if key not in SPLIT_KEYS}
        key = digest_of(settings)
        if key not in self._manifests:
            manifest = self.corpus(config).read()
            for note in manifest.notes:
                log.info("%s: %s", manifest.dataset, note)
            for problem in manifest.problems:
                log.warning("%s: %s", manifest.dataset, problem)
            self._manifests[key] = manifest
        return self._manifests[key]

    def features(
        self, config: Mapping[str, Any], modality: str, manifest: Manifest, chosen: Sequence[Utterance]
    ) -> Features:
        """The features of some utterances in one modality, computed where they are not stored yet."""
        settings = config["encoder"][modality]
        key = digest_of(
            [settings, manifest.digest, [item.id for item in chosen], config["extraction"], config["features"]]
        )
        if key not in self._features:
            encoder = instantiate(settings, where=f"encoder.{modality}")
            if not isinstance(encoder, Encoder) or encoder.modality != modality:
                raise UserError(
                    f"expected encoder.{modality} to be an encoder of {modality}, got {settings['_target_']}"
                )
            sources = {item.id: encoder.source(item, manifest) for item in chosen}
            if all(source is None for source in sources.values()):
                raise UserError(
                    f"expected {modality} for encoder/{modality}, found no utterance of dataset={manifest.dataset} "
                    f"that has it; use encoder/{modality}=none"
                )
            spec = FeatureSpec(**encoder.spec())
            store = FeatureStore(self.cache, spec, self.digests)
            report = extract(
                store, encoder, sources, ExtractionSettings(**config["extraction"]), title=f"{modality} features"
            )
            keys = [report.keys[item.id] for item in chosen]
            reader = store.reader(keys, ReadSettings(**config["features"]))
            read = digest_of(
                [[item.id, found.hex() if found else None] for item, found in zip(chosen, keys, strict=True)]
            )
            self._features[key] = Features(spec, report, reader, read)
        return self._features[key]

    def data(self, config: Mapping[str, Any]) -> Data:
        """The corpus, its splits and all features of a config.

        Raises:
            UserError: the corpus, an encoder or the split is not as it must be.
        """
        used = [name for name in MODALITIES if config["encoder"].get(name) is not None]
        if not used:
            raise UserError("expected an encoder for at least one modality, got none")
        manifest = self.manifest(config)
        corpus = self.corpus(config)
        splits = corpus.split(manifest)
        split_of = {item.id: split for split in SPLITS for item in splits[split]}
        chosen = [item for item in manifest.utterances if item.id in split_of]  # one order for all folds
        features = {modality: self.features(config, modality, manifest, chosen) for modality in used}
        present = torch.stack([item.reader.present for item in features.values()]).any(0)
        places = {
            split: torch.tensor([n for n, item in enumerate(chosen) if split_of[item.id] == split and present[n]])
            for split in SPLITS
        }
        kept = {split: tuple(chosen[place] for place in places[split].tolist()) for split in SPLITS}
        left_out = int((~present).sum())
        if left_out:
            log.warning("%d of %d utterances have none of %s and are left out", left_out, len(chosen), ", ".join(used))
        empty = [f"no utterance of {split} has usable media" for split in SPLITS if not kept[split]]
        raise_problems(f"dataset={manifest.dataset}", empty)
        bad = {modality: len(item.report.bad) for modality, item in features.items() if item.report.bad}
        return Data(corpus, manifest, corpus.chosen_task(manifest), kept, features, places, bad, left_out)


def identify_run(composed: Composed, data: Data) -> RunIdentity:
    """The identity of the run that a config and its data define."""
    return identify(
        composed.config,
        manifest_digest=data.manifest.digest,
        feature_specs={modality: item.spec.digest for modality, item in data.features.items()},
        sources={modality: item.sources for modality, item in data.features.items()},
        local_models=frozenset(name for name, item in data.features.items() if item.spec.checkpoint == LOCAL),
    )
