"""Reads corpora and computes features; what the runs of one process share is read once."""

import logging
import pickle
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from emorec.config.instantiation import Component
from emorec.config.schema import ExtractConfig, LabelMap
from emorec.datamodules.dialogues import with_all_turns
from emorec.datamodules.prepared_data import PreparedData, PreparedFeatures
from emorec.datasets.labels import relabel
from emorec.datasets.manifest import Corpus, Manifest
from emorec.datasets.utterance import SPLITS, Task, Utterance
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError, make_all, raise_problems
from emorec.features.extraction import ExtractionReport, Processes, extract, source_keys
from emorec.features.layers import LayeredReader
from emorec.features.reader import FeatureReader
from emorec.features.spec import FeatureSpec
from emorec.features.store import FeatureStore, open_reader
from emorec.features.streaming import RowCount, StreamedReader
from emorec.media.decoding_process import DecodingProcesses
from emorec.media.source import Change, Source
from emorec.storage.digests import FileDigests, digest_of

log = logging.getLogger(__name__)

SPLIT_KEYS = ("fold", "limit")  # of a dataset's config: they select from the manifest


def _relabelled(manifest: Manifest, task: str, labels: LabelMap) -> Manifest:
    """The corpus with the classes of a label map; warns of classes that the map leaves out."""
    mapped = relabel(manifest, task, labels)
    names = manifest.tasks[task].labels
    dropped = Counter(
        names[number]
        for before, after in zip(manifest.utterances, mapped.utterances, strict=True)
        if isinstance(number := before.targets.get(task), int) and task not in after.targets
    )
    if dropped:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(dropped.items()))
        log.warning("%s: utterances of classes outside the label map are left out: %s", manifest.dataset, counts)
    return mapped


def _manifest_key(config: ExtractConfig) -> str:
    """Identifies how a corpus is read."""
    settings = {key: value for key, value in config.dataset.node.items() if key not in SPLIT_KEYS}
    return digest_of([settings, config.labels])


class DataPreparer:
    """Reads corpora and computes features for the configs of one process.

    Args:
        cache: the folder of features.
        verify: hash every file again, instead of trusting its size, times and inode.
        manifests: corpora that another process has read, by the digest of their settings; they are not read again.

    Attributes:
        processes: those that compute features instead of this one; `None` by default.
        since: seconds since the epoch, from which a decoding that another process did not finish counts.
    """

    def __init__(self, cache: Path, *, verify: bool = False, manifests: Mapping[str, Manifest] | None = None) -> None:
        self.cache, self.since = cache, time.time()
        self.processes: Processes | None = None
        self.digests = FileDigests(cache / "digests.tsv", verify=verify)
        self._manifests = dict(manifests or {})
        self._pickled: dict[str, bytes] = {}
        self._features: dict[tuple[str, str], PreparedFeatures] = {}

    @classmethod
    def of(cls, config: ExtractConfig, manifests: Mapping[str, Manifest] | None = None) -> "DataPreparer":
        """The preparer that a config asks for."""
        return cls(config.paths.cache, verify=config.extraction.verify, manifests=manifests)

    def components(self, config: ExtractConfig) -> tuple[Corpus, dict[str, Encoder]]:
        """The corpus and the encoders of a config, without reading or loading anything.

        Raises:
            UserError: their arguments do not fit; all problems at once.
        """
        makers: dict[str, Callable[[], Any]] = {
            modality: partial(make_encoder, component, modality, self.digests)
            for modality, component in config.encoder.used().items()
        }
        make_corpus = partial(config.dataset.make, Corpus)  # type: ignore[type-abstract]
        made: dict[str, Any] = make_all("the config", {"dataset": make_corpus, **makers})
        corpus, encoders = made.pop("dataset"), made
        problems = [
            f"keep: expected true with {encoder.where}.views={encoder.views}, got false: views are stored"
            for encoder in encoders.values()
            if encoder.mode != "frozen" and encoder.views and not config.inputs.keep
        ]
        raise_problems("inputs", problems)
        return corpus, encoders

    def manifest(self, config: ExtractConfig, corpus: Corpus) -> Manifest:
        """The whole corpus, read once."""
        key = _manifest_key(config)
        if key not in self._manifests:
            manifest = corpus.read()
            if config.labels:
                manifest = _relabelled(manifest, corpus.task, config.labels)
            if remarks := manifest.remarks:
                log.log(logging.WARNING if manifest.problems else logging.INFO, "%s: %s", manifest.dataset, remarks)
            self._manifests[key] = manifest
        return self._manifests[key]

    def pickled_manifest(self, config: ExtractConfig) -> bytes:
        """The `manifests` of a preparer that another process makes for a config whose corpus was read here."""
        key = _manifest_key(config)
        if key not in self._pickled:
            self._pickled[key] = pickle.dumps({key: self._manifests[key]})
        return self._pickled[key]

    def fit(
        self, config: ExtractConfig, corpus: Corpus, encoders: Mapping[str, Encoder], task: Task | None = None
    ) -> None:
        """Lets encoders that learn a state from data, such as a vocabulary, learn it from the training split.

        Those that have one, such as that of a run, keep it. For `task` see `prepare`.
        """
        learners = [encoder for encoder in encoders.values() if encoder.needs_fit]
        if not learners:
            return
        manifest = self.manifest(config, corpus)
        train = corpus.split(manifest, task)["train"]
        for encoder in learners:
            sources = [encoder.source(item, manifest) for item in train]
            encoder.fit([source for source in sources if source is not None])

    def prepare(
        self,
        config: ExtractConfig,
        corpus: Corpus,
        encoders: Mapping[str, Encoder],
        task: Task | None = None,
        *,
        whole: bool = False,
        widths: Mapping[str, int] | None = None,
        dialogues: bool = False,
        others: Sequence[Task] = (),
    ) -> PreparedData:
        """The corpus, its splits and all features of a config, for its corpus and its {modality: encoder}.

        Args:
            task: utterances without a target for it are left out; by default the one that the corpus is configured for.
            whole: each split is the whole corpus, to evaluate a run that was not trained on it.
            widths: {modality: width of its features} of a trained model, which works without a modality that the
                corpus lacks.
            dialogues: all turns of the dialogues are prepared, also those that are in no split.
            others: tasks whose targets are carried as well.

        Raises:
            UserError: the corpus, an encoder or the split is not as expected.
        """
        self.fit(config, corpus, encoders, task)
        manifest = self.manifest(config, corpus)
        task = task or corpus.chosen_task(manifest)
        everything = tuple(item for item in manifest.utterances if task.name in item.targets)
        splits = dict.fromkeys(SPLITS, everything) if whole else corpus.split(manifest, task)
        read = with_all_turns(splits, manifest.utterances) if dialogues else splits
        used = {item.id for items in read.values() for item in items}
        chosen = [item for item in manifest.utterances if item.id in used]
        if self.processes is not None:  # they then find the digests of all files
            for encoder in encoders.values():
                sources = {item.id: encoder.source(item, manifest) for item in chosen}
                source_keys(sources, self.digests, config.extraction.workers)
        features = {
            modality: self._prepared(config, encoder, manifest, chosen, (widths or {}).get(modality))
            for modality, encoder in encoders.items()
        }
        present = torch.stack([item.reader.present[: len(chosen)] for item in features.values()]).any(0)  # views aside
        is_usable = dict(zip((item.id for item in chosen), present.tolist(), strict=True))
        kept = {split: tuple(item for item in items if is_usable[item.id]) for split, items in splits.items()}
        turns = read if dialogues else None
        number = {item.id: index for index, item in enumerate(chosen)}
        indices = {
            split: torch.tensor([number[item.id] for item in items], dtype=torch.long)
            for split, items in (turns or kept).items()
        }
        left_out = int((~present).sum())
        if left_out:
            what = "are left out" if turns is None else "are context alone"
            log.warning("%d of %d utterances have none of %s and %s", left_out, len(chosen), ", ".join(features), what)
        unusable = [f"no utterance of {split} has usable media" for split in SPLITS if not kept[split]]
        raise_problems(f"dataset={manifest.dataset}", unusable)
        bad = {modality: len(item.report.bad) for modality, item in features.items() if item.report.bad}
        trained = {modality: encoder.spec() for modality, encoder in encoders.items() if encoder.mode != "frozen"}
        return PreparedData(
            corpus=corpus,
            manifest=manifest,
            task=task,
            splits=kept,
            features=features,
            indices=indices,
            count=len(chosen),
            bad=bad,
            left_out=left_out,
            trained=trained,
            turns=turns,
            others=tuple(others),
        )

    def _prepared(
        self, config: ExtractConfig, encoder: Encoder, manifest: Manifest, chosen: list[Utterance], width: int | None
    ) -> PreparedFeatures:
        """The features of the chosen utterances in one modality; runs that ask for the same share them.

        `width` is that of the features, where the utterances need not have any, else `None`.
        """
        modality, node = encoder.modality, config.encoder.used()[encoder.modality].node
        settings = [vars(config.extraction), vars(config.features), vars(config.inputs)]
        named = [node, manifest.digest, [item.id for item in chosen], settings]
        key = (modality, digest_of([*named, encoder.state] if encoder.state else named))
        if key not in self._features:
            if config.features.preload == "device":  # a GPU holds what one run needs
                self._features = {other: kept for other, kept in self._features.items() if other[0] != modality}
            self._features[key] = self.extracted(config, encoder, manifest, chosen, width)
        return self._features[key]

    def extracted(
        self,
        config: ExtractConfig,
        encoder: Encoder,
        manifest: Manifest,
        chosen: list[Utterance],
        width: int | None,
        *,
        changes: Mapping[str, Change] | None = None,
    ) -> PreparedFeatures:
        """The features of the chosen utterances in one modality; nothing of them is held here.

        `width` is that of the features, where the utterances need not have any, else `None`. `changes` are
        {utterance id: what is done to its media}.
        """
        modality, settings = encoder.modality, config.extraction
        trains, encoder = encoder.mode != "frozen", encoder.stored()
        sources = {item.id: encoder.source(item, manifest) for item in chosen}
        for name, change in (changes or {}).items():
            if (source := sources[name]) is not None:
                sources[name] = replace(source, change=change)
        if all(source is None for source in sources.values()):
            if width is None:
                raise UserError(
                    f"expected {modality} for encoder/{modality}, found no utterance of dataset={manifest.dataset} "
                    f"that has it; use encoder/{modality}=none"
                )
            log.warning("no utterance of dataset=%s has %s: it is left out", manifest.dataset, modality)
            report = ExtractionReport(keys=dict.fromkeys(sources))
            reader = FeatureReader.absent(len(sources), encoder.dim if trains else width)
            return PreparedFeatures((), report, reader, digest_of([]), layers=len(encoder.layers))
        if trains and encoder.on_cpu and not config.inputs.keep:
            return self._streamed(config, encoder, sources)
        stores = self._stores(encoder.specs())
        extract_from = partial(extract, encoder=encoder, settings=settings, processes=self.processes, since=self.since)
        report = extract_from(stores, sources=sources, title=f"{modality} features", must_fit=trains)
        keys = [report.keys[item.id] for item in chosen]
        parts = [[(store, keys)] for store in stores]  # of each layer
        view_stores = self._stores(encoder.specs(augmented=True)) if encoder.views else []
        for view in range(1, encoder.views + 1):
            sources = {item.id: encoder.source(item, manifest, view=view) for item in chosen}
            extracted = extract_from(view_stores, sources=sources, title=f"{modality} features, view {view}")
            # a view that is impossible, such as of a clip that is too short, is the utterance as it is
            view_keys = [None if item.id in extracted.bad else extracted.keys[item.id] for item in chosen]
            for part, store in zip(parts, view_stores, strict=True):
                part.append((store, view_keys))
        readers = [open_reader(part, config.features) for part in parts]
        return PreparedFeatures(
            specs=tuple(store.spec for store in (*stores, *view_stores)),
            report=report,
            reader=readers[0] if len(readers) == 1 else LayeredReader(readers),
            sources=_sources_digest(report),
            layers=len(stores),
            views=encoder.views,
        )

    def _streamed(
        self, config: ExtractConfig, encoder: Encoder, sources: Mapping[str, Source | None]
    ) -> PreparedFeatures:
        """Inputs that are decoded during training; only their lengths are stored."""
        counter = RowCount(encoder)
        (store,) = self._stores(counter.specs())
        extract_from = partial(extract, processes=self.processes, since=self.since)
        report = extract_from(store, counter, sources, config.extraction, title=f"{encoder.modality} lengths")
        counts, _ = store.reader([report.keys[name] for name in sources], config.features).gather(
            torch.arange(len(sources))
        )
        settings = config.extraction
        processes = DecodingProcesses(seconds=settings.clip_seconds, most_bytes=settings.clip_bytes)
        decoded = [None if source is None else replace(source, processes=processes) for source in sources.values()]
        return PreparedFeatures(
            specs=(FeatureSpec(**encoder.spec()),),
            report=report,
            reader=StreamedReader(encoder, decoded, counts[:, 0, 0].long(), workers=config.inputs.workers),
            sources=_sources_digest(report),
        )

    def _stores(self, specs: Sequence[Mapping[str, object]]) -> list[FeatureStore]:
        return [FeatureStore(self.cache, FeatureSpec(**spec), self.digests) for spec in specs]  # type: ignore[arg-type]


def _sources_digest(report: ExtractionReport) -> str:
    """Identifies what an encoder reads, in the order of the utterances."""
    return digest_of([[name, key.hex() if key else None] for name, key in report.keys.items()])


def make_encoder(component: Component, modality: str, digests: FileDigests) -> Encoder:
    """The encoder of a config's node, which shares digests of files with others.

    Raises:
        UserError: it is for another modality, or its arguments do not fit.
    """
    encoder = component.make(Encoder)  # type: ignore[type-abstract]
    if encoder.modality != modality:
        name = component.target.__name__
        raise UserError(f"{component.where}: expected an encoder of {modality}, got {name}, of {encoder.modality}")
    encoder.check_views()
    encoder.digests = digests
    return encoder
