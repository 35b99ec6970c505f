"""Extraction: computes the features that a store lacks and writes them during the work."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.compaction import compact_if_many
from emorec.features.computation import Computation
from emorec.features.sharing import Share, missing_keys
from emorec.features.space import check_space
from emorec.features.store import FeatureStore
from emorec.features.unfinished import Unfinished
from emorec.media.source import Source
from emorec.progress import Progress
from emorec.storage.digests import FileDigests

log = logging.getLogger(__name__)

ROUNDS = 2  # of computation: the first may show that stored features have the wrong dimension
WAIT_SECONDS = 0.3  # between two looks at what others have computed
WAITING_SECONDS = 30.0  # between two lines of the log that say what this process waits for
KEYS_AT_ONCE = 256  # to hand one text to a thread takes longer than to hash it

Processes = Callable[[], bool]  # starts processes when it is first called; whether they still run


@dataclass(kw_only=True)
class ExtractionReport:
    """The result of `extract`. Utterances whose media cannot be used count neither as found nor as computed."""

    keys: dict[str, bytes | None]  # {utterance id: key of its features}; `None` where it has no media, or no file
    found: int = 0  # number of utterances whose features were in the store
    computed: int = 0  # number of utterances whose features were computed
    bad: dict[str, str] = field(default_factory=dict)  # {utterance id: why its media cannot be used}
    seconds: float = 0.0  # duration of the computation
    padding: float = 0.0  # share of padding among the computed frames

    @property
    def counts(self) -> str:
        """How many were found and computed, and of how many the media cannot be used."""
        return f"{self.found} found, {self.computed} computed, {len(self.bad)} bad"


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
    processes: Processes | None = None,
    since: float | None = None,
) -> ExtractionReport:
    """Computes the features of all sources that the stores lack. One forward pass fills the stores of all layers.

    Processes that ask for the same features at the same time share the work: each computes a part.

    Args:
        stores: one for each layer of the encoder, in their order, or a single store.
        encoder: loaded only if something has to be computed.
        sources: {utterance id: source}, `None` where the modality is absent.
        settings: how features are computed.
        title: name of the work in the log and the progress bar.
        must_fit: whether to estimate first if there is space for them.
        processes: those that compute instead of this one; what they leave is computed here.
        since: time from which a decoding that another process did not finish counts; by default from now.

    Raises:
        UserError: there is no space, media are bad and `on_bad_media` is "fail", a value cannot be stored, or the
            device computes wrong features in the encoder's precision.
    """
    since = time.time() if since is None else since
    stores = [stores] if isinstance(stores, FeatureStore) else list(stores)
    store = stores[0]
    keys, bad = source_keys(sources, store.digests, settings.workers)
    report = ExtractionReport(keys=keys, bad=bad)
    wanted = {key: name for name, key in keys.items() if key is not None}
    started = time.monotonic()
    work = _Work(stores, encoder, sources, wanted, settings=settings, title=title, since=since)
    work.finish(must_fit=must_fit, processes=processes)
    report.seconds, report.padding = time.monotonic() - started, work.padding
    reasons = store.reasons(list(wanted))
    report.bad |= {name: reasons[key] for name, key in keys.items() if key in reasons}
    for name, key in report.keys.items():
        if key in work.unfinished:
            report.keys[name], report.bad[name] = None, work.unfinished[key]
    usable = [key for name, key in keys.items() if key is not None and name not in report.bad]
    report.computed = sum(key in work.computed for key in usable)
    report.found = len(usable) - report.computed
    store.digests.save()
    _log_report(report, stores, title, settings.on_bad_media)
    return report


class _Work:
    """The computation of what some stores lack.

    Attributes:
        computed: keys that this process, or one that computes instead of it, has computed.
        unfinished: {key: reason} of sources whose decoding was not finished, by this process or another.
        padding: share of padding among the frames.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        encoder: Encoder,
        sources: Mapping[str, Source | None],
        wanted: Mapping[bytes, str],
        *,
        settings: ExtractionConfig,
        title: str,
        since: float,
    ) -> None:
        self.stores, self.encoder, self.settings, self.title = stores, encoder, settings, title
        self.wanted = wanted
        self.computed: set[bytes] = set()
        self.padding = 0.0
        self._sources = {key: source for key, name in wanted.items() if (source := sources[name]) is not None}
        self._unfinished = Unfinished(stores[0].folder, since)
        self._logged = time.monotonic()

    @property
    def unfinished(self) -> dict[bytes, str]:
        return self._unfinished.reasons

    def finish(self, *, must_fit: bool, processes: Processes | None) -> None:
        """Returns once all keys are in the stores.

        Raises:
            UserError: as `extract`, or computed features are not in the stores, since others remove or damage them.
        """
        missing = missing_keys(self.stores, list(self.wanted))
        if not missing:
            return
        log.info("%s: %d to compute", self.title, len(missing))
        with Progress(self.title, len(missing), self.settings.progress) as progress:
            if processes is not None:
                self.stores[0].digests.save()  # so that they need not read the files again
                missing = self._wait_for(processes, missing, progress)
            if missing:
                self._compute(missing, progress, must_fit=must_fit)

    def _wait_for(self, processes: Processes, missing: list[bytes], progress: Progress) -> list[bytes]:
        """The keys that are missing once the processes have ended, or none as soon as they have computed all."""
        total, left, run = len(missing), missing, True
        while left and run:
            run = processes()
            left = self._missing(left)
            progress.reach(total - len(left))
            self._log_waiting(f"{total - len(left)} of {total} computed")
            time.sleep(WAIT_SECONDS if left and run else 0)
        self.computed = set(missing).difference(left, self.unfinished)
        return left

    def _compute(self, missing: list[bytes], progress: Progress, *, must_fit: bool) -> None:
        if must_fit:
            check_space(self.stores[0].folder, self.encoder, [self._sources[key] for key in missing], title=self.title)
        if self.encoder.face_misses:
            self.encoder.face_misses.take()  # resets the count
        share = Share(
            self.stores,
            self._unfinished,
            batch_size=self.settings.batch_size,
            stale_after=self.settings.stale_after,
            waiting=lambda holder: self._log_waiting(f"waiting for {holder or '?'}"),
        )
        with share:
            self._compute_share(share, missing, progress)
        self.computed |= share.taken.difference(self.unfinished)
        self._log_faceless(len(share.taken))

    def _compute_share(self, share: Share, missing: list[bytes], progress: Progress) -> None:
        """Computes what nobody else computes, until nothing is missing."""
        total, rounds = progress.done + len(missing), 0

        def advance(count: int) -> None:
            share.advance(count)
            progress.advance(count)

        def portion() -> list[bytes]:
            keys = share.take(missing)
            progress.reach(total - share.left)
            return keys

        computation = Computation(
            self.stores, self.encoder, self._sources, self.wanted, settings=self.settings, advance=advance
        )
        while missing:
            taken = len(share.taken)
            computation.run(iter(portion, []))
            self._unfinished.add(computation.unfinished)
            missing = self._missing(list(self.wanted))  # also those that others have removed since
            if lost := share.taken.intersection(missing):
                rounds += 1
                if rounds == ROUNDS:
                    folders = ", ".join(str(store.folder) for store in self.stores)
                    raise UserError(
                        f"expected the features that were computed in {folders}, got none of {len(lost)} utterances"
                    )
                share.give_back(lost)
            elif missing and len(share.taken) == taken:  # others compute the rest
                names = ", ".join(map(str, share.others)) or "another process"
                self._log_waiting(f"waiting for {names} to compute the last {len(missing)}")
                time.sleep(WAIT_SECONDS)
        self.padding = computation.padding
        if share.taken:
            for store in self.stores:
                compact_if_many(store, stale_after=self.settings.stale_after)

    def _missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that are neither in all stores now nor given up."""
        for store in self.stores:
            store.refresh()
        self._unfinished.refresh()
        return [key for key in missing_keys(self.stores, keys) if key not in self.unfinished]

    def _log_waiting(self, message: str) -> None:
        """Logs, at most every half minute, what this process waits for."""
        if time.monotonic() - self._logged > WAITING_SECONDS:
            self._logged = time.monotonic()
            log.info("%s: %s", self.title, message)

    def _log_faceless(self, clips: int) -> None:
        """Logs how many of the clips that this process has computed show no face."""
        if self.encoder.face_misses and (faceless := self.encoder.face_misses.take()):
            level = logging.WARNING if 2 * faceless > clips else logging.INFO
            log.log(level, "%s: no face found in %d of %d clips, whose centre was taken", self.title, faceless, clips)


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
