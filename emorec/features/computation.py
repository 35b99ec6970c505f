"""Computes features: decodes ahead in threads, encodes in batches and writes shards during the work."""

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.features.precision_check import PrecisionCheck
from emorec.features.store import FeatureStore
from emorec.media.decoding_process import DecodingProcesses
from emorec.media.source import MediaError, Source, UnfinishedDecodingError
from emorec.progress import Progress
from emorec.storage.digests import FileDigests

PUBLISH_BYTES = 128 << 20
PUBLISH_SECONDS = 15.0


class _Publisher:
    """Collects the computed entries that a store lacks and writes them as shards."""

    def __init__(self, store: FeatureStore, keys: Sequence[bytes]) -> None:
        self.store = store
        self._missing = {key for key, stored in zip(keys, store.locate(keys).found, strict=True) if not stored}
        self._clear()

    def _clear(self) -> None:
        self.entries: list[tuple[bytes, NDArray[Any], str | None]] = []
        self.bytes, self.since = 0, time.monotonic()

    def add(self, key: bytes, values: NDArray[Any], reason: str | None) -> None:
        if key in self._missing:
            self.entries.append((key, values, reason))
            self.bytes += values.nbytes
            if self.bytes > PUBLISH_BYTES or time.monotonic() - self.since > PUBLISH_SECONDS:
                self.publish()

    def publish(self) -> None:
        if self.entries:
            keys, values, reasons = map(list, zip(*self.entries, strict=True))
            known = {index: reason for index, reason in enumerate(reasons) if reason is not None}
            self.store.add(keys, values, known)
        self._clear()


def compute(
    stores: Sequence[FeatureStore],
    encoder: Encoder,
    sources: Mapping[bytes, Source],
    names: Mapping[bytes, str],
    *,
    settings: ExtractionConfig,
    title: str,
) -> tuple[float, dict[bytes, str]]:
    """Computes features and writes them.

    Returns the share of padding among the frames, and {key: reason} of sources whose decoding was not finished:
    nothing is written of these, so that they are tried again.

    Args:
        stores: one for each layer of the encoder, in their order.
        encoder: its weights are loaded here.
        sources: {key: source}.
        names: {key: utterance id}, for errors.
        settings: how features are computed.
        title: of the progress bar.

    Raises:
        UserError: a file changed while it was read, the stored dtype cannot hold a value, or the device computes wrong
            features in the encoder's precision.
    """
    encoder.load()
    device = "cpu" if encoder.on_cpu else settings.device or own_device()
    encoder.to(device).eval()
    publishers = [_Publisher(store, list(sources)) for store in stores]
    check = PrecisionCheck(encoder, device)
    real = padded = 0
    unfinished: dict[bytes, str] = {}
    try:
        with (
            closing(_read_ahead(encoder, sources, settings, stores[0].digests)) as items,
            Progress(title, len(sources), settings.progress) as progress,
            torch.inference_mode(),
            exact_float32(),
        ):
            for items_of_batch in _batches(items, encoder, settings.batch_size):
                unfinished |= {
                    key: str(item) for key, item in items_of_batch if isinstance(item, UnfinishedDecodingError)
                }
                batch = [(key, item) for key, item in items_of_batch if key not in unfinished]
                lengths = []
                for key, rows, reason in _encode(encoder, batch, names, device, check):
                    for publisher, layer in zip(publishers, np.split(rows, len(stores), axis=1), strict=True):
                        publisher.add(key, np.ascontiguousarray(layer), reason)  # (T, D) of (T, L · D)
                    if reason is None:
                        lengths.append(len(rows))
                real, padded = real + sum(lengths), padded + max(lengths, default=0) * len(lengths)
                progress.advance(len(items_of_batch))
    finally:
        for publisher in publishers:
            publisher.publish()
    return 1 - real / padded if padded else 0.0, unfinished


def _read_ahead(
    encoder: Encoder, sources: Mapping[bytes, Source], settings: ExtractionConfig, digests: FileDigests
) -> Generator[tuple[bytes, Any]]:
    """Yields (key, item or `MediaError`) in the given order, decoded ahead in threads."""

    def read(key: bytes, source: Source) -> tuple[bytes, Any]:
        try:
            item = encoder.read(replace(source, processes=processes))
        except MediaError as error:
            item = error
        # the content must still be the one that the key stands for
        if source.path is not None and source.key(digests.digest) != key.hex():
            raise UserError(f"expected {source.path} to stay the same, got a change while it was read; start again")
        return key, item

    pending: deque[Future[tuple[bytes, Any]]] = deque()
    processes = DecodingProcesses(seconds=settings.clip_seconds, most_bytes=settings.clip_bytes)
    with ThreadPoolExecutor(settings.workers) as pool, processes:
        for key, source in sources.items():
            pending.append(pool.submit(read, key, source))
            if len(pending) > settings.batch_size * 8:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _batches(
    items: Iterator[tuple[bytes, Any]], encoder: Encoder, batch_size: int
) -> Iterator[Sequence[tuple[bytes, Any]]]:
    """Yields batches of similar length, or of equal length where padding changes the output."""

    def length(item: tuple[bytes, Any]) -> int:
        return -1 if isinstance(item[1], MediaError) else encoder.length(item[1])

    while window := sorted(islice(items, batch_size * 4), key=length):
        start = 0
        for end in range(1, len(window) + 1):
            full = end - start == batch_size
            longer = not encoder.pads_exactly and end < len(window) and length(window[end]) != length(window[start])
            if full or longer or end == len(window):
                yield window[start:end]
                start = end


def _encode(
    encoder: Encoder, batch: Sequence[tuple[bytes, Any]], names: Mapping[bytes, str], device: str, check: PrecisionCheck
) -> Iterator[tuple[bytes, NDArray[Any], str | None]]:
    """Yields (key, features (T, L · D), `None`), or (key, no features, why the media cannot be used).

    Raises:
        UserError: the stored dtype cannot hold a value, or `check` fails.
    """
    name = type(encoder).__name__
    nothing = np.zeros((0, len(encoder.layers) * encoder.dim), encoder.dtype)
    items = []
    for key, item in batch:
        if isinstance(item, MediaError):
            yield key, nothing, str(item)
        else:
            items.append((key, item))
    if not items:
        return
    inputs = encoder.collate([item for _, item in items])
    features, mask = encoder.encode({key: tensor.to(device) for key, tensor in inputs.items()})
    computed, stored, masks = features.cpu(), features.to(getattr(torch, encoder.dtype)).cpu(), mask.cpu()
    first_key, first_item = items[0]
    check.compare(first_item, computed[0][masks[0]], names[first_key])
    for (key, _), values, narrow, valid in zip(items, computed, stored, masks, strict=True):
        exact, rows = values[valid], narrow[valid].contiguous()  # (T, L · D)
        if len(rows) == 0 or not bool(torch.isfinite(exact).all()):
            count = int((~torch.isfinite(exact)).sum())
            yield key, nothing, f"{name} returns {len(rows)} frames with {count} values that are not finite"
        elif not bool(torch.isfinite(rows).all()):
            raise UserError(
                f"expected features of {names[key]} that {encoder.dtype} can hold, got up to "
                f"{float(exact.abs().max()):g} ({name}); try dtype=float32"
            )
        else:
            yield key, rows.numpy(), None
