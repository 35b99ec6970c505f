"""Computes the features that a store does not have yet: each once, published as the work goes on."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.computation import ExtractionSettings, compute
from emorec.features.store import FeatureStore
from emorec.features.maintenance import compact, compact_if_many
from emorec.media.faces import take_fallbacks
from emorec.media.source import Source
from emorec.storage.atomic import remove_orphans
from emorec.storage.claims import STALE_SECONDS, Holder, claimed
from emorec.storage.digests import FileDigests

log = logging.getLogger(__name__)

CLAIM = "extraction.claim"


@dataclass(kw_only=True)
class ExtractionReport:
    """What one call of `extract` found and did.

    Attributes:
        keys: {utterance id: key of its features}; `None` where the modality is absent or its file is missing.
        found: how many utterances' features were there.
        computed: how many were computed now.
        bad: {utterance id: why its media cannot be used}; none of them is found or computed.
        seconds: time spent computing.
        padding: share of the computed frames that were padding.
    """

    keys: dict[str, bytes | None]
    found: int = 0
    computed: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    padding: float = 0.0


def source_keys(
    sources: Mapping[str, Source | None], digests: FileDigests, workers: int
) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """The key of each source, and {id: why} of the sources whose file is missing or cannot be read."""
    missing: dict[str, str] = {}

    def key(item: tuple[str, Source | None]) -> bytes | None:
        identifier, source = item
        try:
            return None if source is None else bytes.fromhex(source.key(digests.digest))
        except OSError as error:
            missing[identifier] = f"{source.path if source else ''}: {error.strerror or error}"
            return None

    with ThreadPoolExecutor(workers) as pool:
        keys = dict(zip(sources, pool.map(key, sources.items(), chunksize=64), strict=True))
    return keys, missing


def extract(
    stores: FeatureStore | Sequence[FeatureStore],
    encoder: Encoder,
    sources: Mapping[str, Source | None],
    settings: ExtractionSettings,
    *,
    title: str = "features",
) -> ExtractionReport:
    """Makes sure that the stores hold the features of all sources; one forward pass fills all layers' stores.

    Args:
        stores: one for each of the encoder's layers, in their order; the store itself where there is one.
        encoder: loaded only if something has to be computed.
        sources: {utterance id: what is read for it}, `None` where the modality is absent.
        settings: how.
        title: names the work in log and progress bar.

    Raises:
        UserError: media are bad and `on_bad_media` is "fail", or a value cannot be stored.
    """
    stores = [stores] if isinstance(stores, FeatureStore) else list(stores)
    store = stores[0]
    keys, bad = source_keys(sources, store.digests, settings.workers)
    report = ExtractionReport(keys=keys, bad=bad)
    wanted = {key: identifier for identifier, key in keys.items() if key is not None}
    started = time.monotonic()
    todo = _compute_absent(stores, encoder, sources, wanted, settings=settings, title=title, report=report)
    report.seconds = time.monotonic() - started
    names = [name for name, key in keys.items() if key is not None]
    reasons = store.reasons([key for key in keys.values() if key is not None])
    report.bad |= {names[place]: reason for place, reason in reasons.items()}
    sound = [key for name, key in keys.items() if key is not None and name not in report.bad]
    report.computed = sum(key in todo for key in sound)
    report.found = len(sound) - report.computed
    store.digests.save()
    _tell(report, stores, title, settings.on_bad_media)
    return report


def _compute_absent(
    stores: Sequence[FeatureStore],
    encoder: Encoder,
    sources: Mapping[str, Source | None],
    wanted: Mapping[bytes, str],
    *,
    settings: ExtractionSettings,
    title: str,
    report: ExtractionReport,
) -> dict[bytes, str]:
    """Computes what is not in all stores, under their claims; returns what that was."""
    todo = _absent(stores, wanted)
    if not todo:
        return todo
    with ExitStack() as claims:
        for store in sorted(stores, key=lambda item: item.folder):  # one order, so that no two wait for each other
            waiting = _Waiting(title, store, len(todo))
            claims.enter_context(claimed(store.folder / CLAIM, stale_after=settings.stale_after, waiting=waiting))
            store.refresh()  # another process may have done it in the meantime
        todo = _absent(stores, wanted)
        if todo:
            for store in stores:
                remove_orphans(store.folder)
            log.info("%s: %d to compute", title, len(todo))
            read = {key: sources[name] for key, name in todo.items()}
            take_fallbacks()  # of whoever read media before
            report.padding = compute(stores, encoder, read, todo, settings=settings, title=title)
            if fallbacks := take_fallbacks():
                level = logging.WARNING if 2 * fallbacks > len(todo) else logging.INFO
                log.log(
                    level, "%s: no face found in %d of %d clips, whose centre was taken", title, fallbacks, len(todo)
                )
            for store in stores:
                store.refresh()
                compact_if_many(store)
    return todo


def compact_claimed(store: FeatureStore, *, stale_after: float = STALE_SECONDS) -> int:
    """Compacts a store under its claim; returns how many shards there are less."""
    with claimed(store.folder / CLAIM, stale_after=stale_after):
        store.refresh()
        return compact(store)


def _absent(stores: Sequence[FeatureStore], wanted: Mapping[bytes, str]) -> dict[bytes, str]:
    """What is not in all of the stores."""
    found = np.logical_and.reduce([store.locate(list(wanted)).found for store in stores])
    return {key: name for (key, name), there in zip(wanted.items(), found, strict=True) if not there}


class _Waiting:
    """Says once, and then every half minute, who computes what we wait for."""

    def __init__(self, title: str, store: FeatureStore, wanted: int) -> None:
        self.title, self.store, self.wanted = title, store, wanted
        self._next = 0.0

    def __call__(self, holder: Holder | None) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 30
        self.store.refresh()
        log.info(
            "%s: waiting for %s, which computes them (%d stored so far)", self.title, holder or "?", len(self.store)
        )


def _tell(report: ExtractionReport, stores: Sequence[FeatureStore], title: str, on_bad_media: str) -> None:
    rate = ""
    if report.computed and report.seconds:
        rate = f" ({report.computed / report.seconds:.1f} a second, {100 * report.padding:.1f} % padding)"
    names = ", ".join(store.spec.folder_name for store in stores)
    log.info("%s: %d found, %d computed%s [%s]", title, report.found, report.computed, rate, names)
    if not report.bad:
        return
    shown = [f"  - {name}: {reason}" for name, reason in list(report.bad.items())[:20]]
    if len(report.bad) > len(shown):
        shown.append(f"  … and {len(report.bad) - len(shown)} more")
    heading = f"{title}: {len(report.bad)} of {len(report.keys)} utterances have media that cannot be used"
    if on_bad_media == "fail":
        raise UserError("\n".join([f"{heading} (extraction.on_bad_media=fail)", *shown]))
    log.warning("%s and are left out:\n%s", heading, "\n".join(shown))
