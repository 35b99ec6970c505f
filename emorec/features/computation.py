"""Computes features: decodes ahead in threads, encodes in batches, publishes as the work goes on."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.features.store import FeatureStore
from emorec.media.source import MediaError, Source
from emorec.progress import Progress
from emorec.storage.claims import STALE_SECONDS
from emorec.storage.digests import FileDigests

PUBLISH_BYTES = 128 << 20
PUBLISH_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How features are computed; nothing here changes them.

    Attributes:
        batch_size: utterances of one forward pass.
        workers: threads that decode media.
        on_bad_media: "skip" leaves an utterance's modality out and says so, "fail" ends with all of them listed.
        device: where encoders run; `None` for the GPU if there is one.
        stale_after: seconds without a sign of life after which another host's work is taken over.
        verify: hash every file again, instead of trusting its size, times and inode.
        progress: whether bars are drawn.
    """

    batch_size: int = 16
    workers: int = 2
    on_bad_media: str = "skip"
    device: str | None = None
    stale_after: float = STALE_SECONDS
    verify: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.on_bad_media not in ("skip", "fail"):
            raise UserError(f"expected extraction.on_bad_media in ('skip', 'fail'), got {self.on_bad_media!r}")
        if self.batch_size < 1 or self.workers < 1:
            raise UserError(
                f"expected extraction.batch_size and extraction.workers of at least 1, "
                f"got {self.batch_size} and {self.workers}"
            )


class _Publisher:
    """Collects the entries that a store lacks, of all that are computed, and publishes them as shards."""

    def __init__(self, store: FeatureStore, dim: int, keys: Sequence[bytes]) -> None:
        self.store, self.dim = store, dim
        self._lacking = {key for key, there in zip(keys, store.locate(keys).found, strict=True) if not there}
        self._clear()

    def _clear(self) -> None:
        self.keys: list[bytes] = []
        self.values: list[NDArray[Any]] = []
        self.reasons: dict[int, str] = {}
        self.bytes = 0
        self.since = time.monotonic()

    def add(self, key: bytes, values: NDArray[Any]) -> None:
        if key not in self._lacking:
            return
        self.keys.append(key)
        self.values.append(values)
        self.bytes += values.nbytes
        if self.bytes > PUBLISH_BYTES or time.monotonic() - self.since > PUBLISH_SECONDS:
            self.publish()

    def add_bad(self, key: bytes, reason: str) -> None:
        if key in self._lacking:
            self.reasons[len(self.keys)] = reason
        self.add(key, np.zeros((0, self.dim), self.store.spec.dtype))

    def publish(self) -> None:
        if self.keys:
            self.store.add(self.keys, self.values, self.reasons)
        self._clear()


def compute(
    stores: Sequence[FeatureStore],
    encoder: Encoder,
    sources: Mapping[bytes, Source | None],
    names: Mapping[bytes, str],
    *,
    settings: ExtractionSettings,
    title: str,
) -> float:
    """Computes and publishes; returns the share of padding among the frames.

    Args:
        stores: one for each of the encoder's layers, in their order.
        encoder: its weights are loaded here.
        sources: {key: what is read}.
        names: {key: the utterance's id}, for errors.
        settings: how.
        title: of the progress bar.
    """
    encoder.load()
    device = "cpu" if encoder.on_cpu else settings.device or own_device()
    encoder.to(device).eval()
    publishers = [_Publisher(store, encoder.dim, list(sources)) for store in stores]
    real = padded = 0
    lengths: list[int] = []
    try:
        with Progress(title, len(sources), settings.progress) as progress, torch.inference_mode(), exact_float32():
            for batch in _batches(
                _read_ahead(encoder, sources, settings, stores[0].digests), encoder, settings.batch_size
            ):
                items = [(key, item) for key, item in batch if not isinstance(item, MediaError)]
                bad = [(key, item) for key, item in batch if isinstance(item, MediaError)]
                for key, found in [*bad, *(_encode(encoder, items, names, device) if items else ())]:
                    if isinstance(found, MediaError):
                        for publisher in publishers:
                            publisher.add_bad(key, str(found))
                        continue
                    lengths.append(len(found))
                    for publisher, layer in zip(publishers, np.split(found, len(stores), axis=1), strict=True):
                        publisher.add(key, np.ascontiguousarray(layer))  # (T, D) of (T, L · D)
                real, padded = real + sum(lengths), padded + max(lengths, default=0) * len(lengths)
                lengths.clear()
                progress.advance(len(batch))
    finally:
        for publisher in publishers:
            publisher.publish()
    return 1 - real / padded if padded else 0.0


def _read_ahead(
    encoder: Encoder,
    sources: Mapping[bytes, Source | None],
    settings: ExtractionSettings,
    digests: FileDigests,
) -> Iterator[tuple[bytes, Any]]:
    """(key, what was read or the `MediaError`) in the given order, decoded in threads ahead of need."""

    def read(source: Source) -> Any:
        try:
            return encoder.read(source)
        except MediaError as error:
            return error

    def unchanged(key: bytes, source: Source | None, future: Future[Any]) -> tuple[bytes, Any]:
        """What was read, of the content that the key was made of."""
        item = future.result()
        assert source is not None
        if source.path is not None and source.key(digests.digest) != key.hex():
            raise UserError(f"expected {source.path} to stay as it is, found it changed while it was read; start again")
        return key, item

    ahead = settings.batch_size * 8
    waiting: deque[tuple[bytes, Source | None, Future[Any]]] = deque()
    with ThreadPoolExecutor(settings.workers) as pool:
        for key, source in sources.items():
            assert source is not None
            waiting.append((key, source, pool.submit(read, source)))
            if len(waiting) > ahead:
                yield unchanged(*waiting.popleft())
        while waiting:
            yield unchanged(*waiting.popleft())


def _batches(
    items: Iterator[tuple[bytes, Any]], encoder: Encoder, batch_size: int
) -> Iterator[Sequence[tuple[bytes, Any]]]:
    """Batches of similar length, or of equal length where padding would leak into the output."""

    def length(item: tuple[bytes, Any]) -> int:
        return -1 if isinstance(item[1], MediaError) else encoder.length(item[1])

    def cut(window: list[tuple[bytes, Any]]) -> Iterator[Sequence[tuple[bytes, Any]]]:
        window.sort(key=length)
        start = 0
        for end in range(1, len(window) + 1):
            full = end - start == batch_size
            parted = not encoder.pads_exactly and end < len(window) and length(window[end]) != length(window[start])
            if full or parted or end == len(window):
                yield window[start:end]
                start = end

    window: list[tuple[bytes, Any]] = []
    for item in items:
        window.append(item)
        if len(window) == batch_size * 4:
            yield from cut(window)
            window = []
    yield from cut(window)


def _encode(
    encoder: Encoder, items: Sequence[tuple[bytes, Any]], names: Mapping[bytes, str], device: str
) -> Iterator[tuple[bytes, NDArray[Any] | MediaError]]:
    """The features (T, L · D) of each item, or what is wrong with its media.

    Raises:
        UserError: the stored type cannot hold what the encoder made.
    """
    inputs = encoder.collate([item for _, item in items])
    features, mask = encoder.encode({name: tensor.to(device) for name, tensor in inputs.items()})
    made, stored, masks = features.cpu(), features.to(getattr(torch, encoder.dtype)).cpu(), mask.cpu()
    for (key, _), exact, values, kept in zip(items, made, stored, masks, strict=True):
        rows = values[kept].contiguous()  # (T, D)
        if len(rows) == 0 or not bool(torch.isfinite(exact[kept]).all()):
            wrong = int((~torch.isfinite(exact[kept])).sum())
            yield (
                key,
                MediaError(
                    f"{type(encoder).__name__} makes {len(rows)} frames of it, with {wrong} values that are no numbers"
                ),
            )
        elif not bool(torch.isfinite(rows).all()):
            raise UserError(
                f"expected features of {names[key]} that {encoder.dtype} can hold, got up to "
                f"{float(exact[kept].abs().max()):g} ({type(encoder).__name__}); try dtype=float32"
            )
        else:
            yield key, rows.numpy()
