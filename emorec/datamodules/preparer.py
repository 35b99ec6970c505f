"""What the jobs of one process share: the manifest, the features and their readers are read once."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from emorec.batch import MODALITIES
from emorec.datamodules.prepared_data import Data, Features
from emorec.config.instantiation import instantiate
from emorec.datasets.labels import relabel
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import SPLITS, Task, Utterance
from emorec.encoders.checkpoint import use_digests
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError, raise_problems
from emorec.features.computation import ExtractionSettings
from emorec.features.extraction import ExtractionReport, extract
from emorec.features.layers import LayeredReader
from emorec.features.reader import FeatureReader, ReadSettings
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore, open_reader
from emorec.media.source import Source
from emorec.storage.digests import FileDigests, digest_of

log = logging.getLogger(__name__)

SPLIT_KEYS = ("fold", "limit")  # of a dataset's config: they choose from the manifest


def _relabelled(manifest: Manifest, task: str, labels: Mapping[str, Sequence[str]]) -> Manifest:
    """The corpus with the classes of a label map; says what has none of them."""
    mapped = relabel(manifest, task, labels)
    names = manifest.tasks[task].labels
    lost = Counter(
        names[number]
        for before, after in zip(manifest.utterances, mapped.utterances, strict=True)
        if isinstance(number := before.targets.get(task), int) and task not in after.targets
    )
    if lost:
        told = ", ".join(f"{name} ({count})" for name, count in sorted(lost.items()))
        log.warning("%s: no class of the label map, and left out: %s", manifest.dataset, told)
    return mapped


def _encoder(config: Mapping[str, Any], modality: str) -> Encoder:
    settings = config["encoder"][modality]
    encoder = instantiate(settings, where=f"encoder.{modality}", kind=Encoder)  # type: ignore[type-abstract]
    if encoder.modality != modality:
        raise UserError(f"expected encoder.{modality} to be an encoder of {modality}, got {settings['_target_']}")
    encoder.check_views()
    return encoder


def _no_features(sources: Mapping[str, Source | None], width: int, layers: int) -> Features:
    """Of utterances none of which has the modality."""
    return Features(
        specs=(),
        report=ExtractionReport(keys=dict.fromkeys(sources)),
        reader=FeatureReader.absent(len(sources), width),
        sources=digest_of([]),
        layers=layers,
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
        self._features: dict[tuple[str, str], Features] = {}

    def corpus(self, config: Mapping[str, Any]) -> Corpus:
        """The corpus of a config's `dataset`."""
        if config.get("dataset") is None:
            raise UserError("expected a dataset, such as dataset=demo")
        return instantiate(config["dataset"], where="dataset", kind=Corpus)  # type: ignore[type-abstract]

    def manifest(self, config: Mapping[str, Any]) -> Manifest:
        """The whole corpus of a config's `dataset`, read once."""
        corpus, labels = self.corpus(config), config.get("labels")
        settings = {key: value for key, value in config["dataset"].items() if key not in SPLIT_KEYS}
        key = digest_of([settings, labels])
        if key not in self._manifests:
            manifest = corpus.read()
            if labels:
                manifest = _relabelled(manifest, corpus.task, labels)
            for note in manifest.notes:
                log.info("%s: %s", manifest.dataset, note)
            for problem in manifest.problems:
                log.warning("%s: %s", manifest.dataset, problem)
            self._manifests[key] = manifest
        return self._manifests[key]

    def task(self, config: Mapping[str, Any]) -> Task:
        """What a config predicts."""
        return self.corpus(config).chosen_task(self.manifest(config))

    def features(
        self,
        config: Mapping[str, Any],
        modality: str,
        manifest: Manifest,
        chosen: Sequence[Utterance],
        width: int | None = None,
    ) -> Features:
        """The features of some utterances in one modality, computed where they are not stored yet.

        Args:
            config: resolved, primitives only.
            modality: which.
            manifest: the whole corpus.
            chosen: the utterances.
            width: of the features, where none of the utterances need have any.
        """
        settings = config["encoder"][modality]
        digest = digest_of(
            [settings, manifest.digest, [item.id for item in chosen], config["extraction"], config["features"]]
        )
        key = (modality, digest)
        if key not in self._features:
            if config["features"]["preload"] == "device":  # a GPU holds what one job needs
                self._features = {other: held for other, held in self._features.items() if other[0] != modality}
            self._features[key] = self._extracted(_encoder(config, modality), config, manifest, chosen, width)
        return self._features[key]

    def _extracted(
        self,
        encoder: Encoder,
        config: Mapping[str, Any],
        manifest: Manifest,
        chosen: Sequence[Utterance],
        width: int | None,
    ) -> Features:
        modality, settings = encoder.modality, ExtractionSettings(**config["extraction"])
        sources = {item.id: encoder.source(item, manifest) for item in chosen}
        if all(source is None for source in sources.values()):
            if width is not None:
                log.warning("no utterance of dataset=%s has %s: it is left out", manifest.dataset, modality)
                return _no_features(sources, width, len(encoder.layers))
            raise UserError(
                f"expected {modality} for encoder/{modality}, found no utterance of dataset={manifest.dataset} "
                f"that has it; use encoder/{modality}=none"
            )
        stores = self._stores(encoder.specs())
        report = extract(stores, encoder, sources, settings, title=f"{modality} features")
        keys = [report.keys[item.id] for item in chosen]
        parts = [[(store, keys)] for store in stores]  # of each layer
        view_stores = self._stores(encoder.specs(augmented=True)) if encoder.views else []
        for view in range(1, encoder.views + 1):
            sources = {item.id: encoder.source(item, manifest, view=view) for item in chosen}
            seen = extract(view_stores, encoder, sources, settings, title=f"{modality} features, view {view}")
            # a view that cannot be had is the utterance as it is
            view_keys = [None if item.id in seen.bad else seen.keys[item.id] for item in chosen]
            for part, store in zip(parts, view_stores, strict=True):
                part.append((store, view_keys))
        readers = [open_reader(part, ReadSettings(**config["features"])) for part in parts]
        read = [[item.id, found.hex() if found else None] for item, found in zip(chosen, keys, strict=True)]
        return Features(
            specs=tuple(store.spec for store in (*stores, *view_stores)),
            report=report,
            reader=readers[0] if len(readers) == 1 else LayeredReader(readers),
            sources=digest_of(read),
            layers=len(stores),
            views=encoder.views,
        )

    def _stores(self, specs: Sequence[Mapping[str, Any]]) -> list[FeatureStore]:
        return [FeatureStore(self.cache, FeatureSpec(**spec), self.digests) for spec in specs]

    def data(self, config: Mapping[str, Any], *, whole: bool = False, widths: Mapping[str, int] | None = None) -> Data:
        """The corpus, its splits and all features of a config.

        Args:
            config: resolved, primitives only.
            whole: each split is the whole corpus, to evaluate a run that was not trained on it.
            widths: {modality: width of its features} of a trained model, which does without a modality that the
                corpus lacks.

        Raises:
            UserError: the corpus, an encoder or the split is not as it must be.
        """
        used = [name for name in MODALITIES if config["encoder"].get(name) is not None]
        if not used:
            raise UserError("expected an encoder for at least one modality, got none")
        for name in used:  # all are as they must be before the first computes anything
            _encoder(config, name)
        manifest, corpus, task = self.manifest(config), self.corpus(config), self.task(config)
        everything = tuple(item for item in manifest.utterances if task.name in item.targets)
        splits = dict.fromkeys(SPLITS, everything) if whole else corpus.split(manifest)
        names = {split: {item.id for item in items} for split, items in splits.items()}
        chosen = [item for item in manifest.utterances if any(item.id in found for found in names.values())]
        known = widths or {}
        features = {name: self.features(config, name, manifest, chosen, known.get(name)) for name in used}
        present = torch.stack([item.reader.present[: len(chosen)] for item in features.values()]).any(0)  # views aside
        places = {
            split: torch.tensor(
                [place for place, item in enumerate(chosen) if item.id in names[split] and present[place]],
                dtype=torch.long,
            )
            for split in SPLITS
        }
        kept = {split: tuple(chosen[place] for place in places[split].tolist()) for split in SPLITS}
        left_out = int((~present).sum())
        if left_out:
            log.warning("%d of %d utterances have none of %s and are left out", left_out, len(chosen), ", ".join(used))
        empty = [f"no utterance of {split} has usable media" for split in SPLITS if not kept[split]]
        raise_problems(f"dataset={manifest.dataset}", empty)
        bad = {modality: len(item.report.bad) for modality, item in features.items() if item.report.bad}
        return Data(corpus, manifest, task, kept, features, places, len(chosen), bad, left_out)
