"""Extraction: computes the features that a store lacks and writes them during the work."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.compaction import compact_if_many
from emorec.features.computation import compute
from emorec.features.space import check_space
from emorec.features.store import CLAIM, FeatureStore
from emorec.media.source import Source
from emorec.storage.atomic import remove_orphans
from emorec.storage.claims import Holder, claimed
from emorec.storage.digests import FileDigests

log = logging.getLogger(__name__)

ROUNDS = 2  # of computation: the first may show that stored features have the wrong dimension
KEYS_AT_ONCE = 256  # to hand one text to a thread takes longer than to hash it


@dataclass(kw_only=True)
class ExtractionReport:
    """The result of `extract`. Utterances whose media cannot be used count neither as found nor as computed."""

    keys: dict[str, bytes | None]  # {utterance id: key of its features}; `None` where it has no media, or no file
    found: int = 0  # number of utterances whose features were in the store
    computed: int = 0  # number of utterances whose features were computed
    bad: dict[str, str] = field(default_factory=dict)  # {utterance id: why its media cannot be used}
    seconds: float = 0.0  # duration of the computation
    padding: float = 0.0  # share of padding among the computed frames


def source_keys(
    sources: Mapping[str, Source | None], digests: FileDigests, workers: int
) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """The key of each source, and {id: reason} for sources whose file is missing or cannot be read."""
    missing: dict[str, str] = {}

    def key(identifier: str, source: Source | None) -> bytes | None:
        try:
            return None if source is None else bytes.fromhex(source.key(digests.digest))
        except OSError as error:
            missing[identifier] = f"{source.path if source else ''}: {error.strerror or error}"
            return None

    def keys_of(start: int) -> list[bytes | None]:
        return [key(*item) for item in items[start : start + KEYS_AT_ONCE]]

    items = list(sources.items())
    with ThreadPoolExecutor(workers) as pool:
        blocks = pool.map(keys_of, range(0, len(items), KEYS_AT_ONCE))
        keys = dict(zip(sources, chain.from_iterable(blocks), strict=True))
    return keys, missing


def extract(
    stores: FeatureStore | Sequence[FeatureStore],
    encoder: Encoder,
    sources: Mapping[str, Source | None],
    settings: ExtractionConfig,
    *,
    title: str = "features",
    must_fit: bool = False,
) -> ExtractionReport:
    """Computes the features of all sources that the stores lack. One forward pass fills the stores of all layers.

    Args:
        stores: one for each layer of the encoder, in their order, or a single store.
        encoder: loaded only if something has to be computed.
        sources: {utterance id: source}, `None` where the modality is absent.
        settings: how features are computed.
        title: name of the work in the log and the progress bar.
        must_fit: whether to estimate first if there is space for them.

    Raises:
        UserError: there is no space, media are bad and `on_bad_media` is "fail", a value cannot be stored, or the
            device computes wrong features in the encoder's precision.
    """
    stores = [stores] if isinstance(stores, FeatureStore) else list(stores)
    store = stores[0]
    keys, bad = source_keys(sources, store.digests, settings.workers)
    report = ExtractionReport(keys=keys, bad=bad)
    wanted = {key: name for name, key in keys.items() if key is not None}
    started = time.monotonic()
    missing = _compute_missing(
        stores, encoder, sources, wanted, settings=settings, title=title, report=report, must_fit=must_fit
    )
    report.seconds = time.monotonic() - started
    reasons = store.reasons(list(wanted))
    report.bad |= {name: reasons[key] for name, key in keys.items() if key in reasons}
    usable = [key for name, key in keys.items() if key is not None and name not in report.bad]
    report.computed = sum(key in missing for key in usable)
    report.found = len(usable) - report.computed
    store.digests.save()
    _log_report(report, stores, title, settings.on_bad_media)
    return report


def _compute_missing(
    stores: Sequence[FeatureStore],
    encoder: Encoder,
    sources: Mapping[str, Source | None],
    wanted: Mapping[bytes, str],
    *,
    settings: ExtractionConfig,
    title: str,
    report: ExtractionReport,
    must_fit: bool,
) -> dict[bytes, str]:
    """Computes the keys that are not in all stores, under the claims of the stores, and returns them.

    Raises:
        UserError: computed features are not in the stores, since others remove or damage them.
    """
    missing = _missing(stores, wanted)
    if not missing:
        return missing
    computed: dict[bytes, str] = {}
    with ExitStack() as claims:
        for store in sorted(stores, key=lambda item: item.folder):  # in one order, to prevent deadlocks
            waiting = _waiting_log(title, store)
            claims.enter_context(claimed(store.folder / CLAIM, stale_after=settings.stale_after, waiting=waiting))
            store.refresh()  # another process may have done it in the meantime
            remove_orphans(store.folder)
        for _ in range(ROUNDS):
            missing = _missing(stores, wanted)
            if not missing:
                return computed
            computed |= missing
            log.info("%s: %d to compute", title, len(missing))
            to_read = {key: source for key, name in missing.items() if (source := sources[name]) is not None}
            if must_fit:
                check_space(stores[0].folder, encoder, list(to_read.values()), title=title)
            with _faces_counted(encoder, title, len(missing)):
                report.padding, unfinished = compute(stores, encoder, to_read, missing, settings=settings, title=title)
            for name, key in report.keys.items():
                if key in unfinished:
                    report.keys[name], report.bad[name] = None, unfinished[key]
            wanted = {key: name for key, name in wanted.items() if key not in unfinished}
            for store in stores:
                store.refresh()
                compact_if_many(store)
    if lost := _missing(stores, wanted):
        folders = ", ".join(str(store.folder) for store in stores)
        raise UserError(f"expected the features that were computed in {folders}, got none of {len(lost)} utterances")
    return computed


@contextmanager
def _faces_counted(encoder: Encoder, title: str, clips: int) -> Iterator[None]:
    """Logs how many of the clips that are computed in the block show no face."""
    if encoder.face_misses:
        encoder.face_misses.take()  # resets the count
    yield
    if encoder.face_misses and (faceless := encoder.face_misses.take()):
        level = logging.WARNING if 2 * faceless > clips else logging.INFO
        log.log(level, "%s: no face found in %d of %d clips, whose centre was taken", title, faceless, clips)


def _missing(stores: Sequence[FeatureStore], wanted: Mapping[bytes, str]) -> dict[bytes, str]:
    """The keys that are not in all stores."""
    stored = np.logical_and.reduce([store.locate(list(wanted)).found for store in stores])
    return {key: name for (key, name), is_stored in zip(wanted.items(), stored, strict=True) if not is_stored}


def _waiting_log(title: str, store: FeatureStore) -> Callable[[Holder | None], None]:
    """Logs every half minute which process this one waits for."""
    due = 0.0

    def waiting(holder: Holder | None) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + 30
            store.refresh()
            log.info("%s: waiting for %s, which computes them (%d stored so far)", title, holder or "?", len(store))

    return waiting


def _log_report(report: ExtractionReport, stores: Sequence[FeatureStore], title: str, on_bad_media: str) -> None:
    speed = report.computed / report.seconds if report.seconds else 0
    rate = f" ({speed:.1f} a second, {100 * report.padding:.1f} % padding)" if speed else ""
    names = ", ".join(store.spec.folder_name for store in stores)
    log.info("%s: %d found, %d computed%s [%s]", title, report.found, report.computed, rate, names)
    if not report.bad:
        return
    lines = [f"  - {name}: {reason}" for name, reason in list(report.bad.items())[:20]]
    if len(report.bad) > len(lines):
        lines.append(f"  … and {len(report.bad) - len(lines)} more")
    heading = f"{title}: {len(report.bad)} of {len(report.keys)} utterances have media that cannot be used"
    if on_bad_media == "fail":
        raise UserError("\n".join([f"{heading} (extraction.on_bad_media=fail)", *lines]))
    log.warning("%s and are left out:\n%s", heading, "\n".join(lines))
