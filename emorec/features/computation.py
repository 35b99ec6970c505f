"""Computes features: decodes ahead in threads, encodes in batches and writes shards during the work."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emorec.config.schema import ExtractionConfig
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.devices import exact_float32, own_device
from emorec.features.precision_check import PrecisionCheck
from emorec.features.sharing import missing_keys
from emorec.features.store import FeatureStore
from emorec.media.decoding_process import DecodingProcesses
from emorec.media.source import MediaError, Source, UnfinishedDecodingError

BATCHES_OF_A_WINDOW = 4  # that are sorted by length together
AHEAD = 1  # windows that are decoded while one is encoded
PUBLISH_BYTES = 128 << 20


class _Publisher:
    """Collects the computed entries that a store lacks and writes them as shards, every few seconds."""

    def __init__(self, store: FeatureStore, every_seconds: float) -> None:
        self.store, self.every_seconds = store, every_seconds
        self._missing: set[bytes] = set()
        self._clear()

    def _clear(self) -> None:
        self.entries: list[tuple[bytes, NDArray[Any], str | None]] = []
        self.bytes, self.since = 0, time.monotonic()

    def expect(self, keys: Sequence[bytes]) -> None:
        """Entries of `keys` are going to be added; those that the store has are not written again."""
        self._missing.update(missing_keys([self.store], keys))

    def add(self, key: bytes, values: NDArray[Any], reason: str | None) -> None:
        if key in self._missing:
            self.entries.append((key, values, reason))
            self.bytes += values.nbytes
            if self.bytes > PUBLISH_BYTES or time.monotonic() - self.since > self.every_seconds:
                self.publish()

    def publish(self) -> None:
        if self.entries:
            keys, values, reasons = map(list, zip(*self.entries, strict=True))
            known = {index: reason for index, reason in enumerate(reasons) if reason is not None}
            self.store.add(keys, values, known)
        self._clear()


class Computation:
    """Computes features and writes them.

    Attributes:
        unfinished: {key: reason} of sources whose decoding was not finished: nothing is written of these, so that they
            are tried again.

    Args:
        stores: one for each layer of the encoder, in their order.
        encoder: its weights are loaded when the first source is computed.
        sources: {key: source}.
        names: {key: utterance id}, for errors.
        settings: how features are computed.
        advance: called with the number of sources of each batch that is done.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        encoder: Encoder,
        sources: Mapping[bytes, Source],
        names: Mapping[bytes, str],
        *,
        settings: ExtractionConfig,
        advance: Callable[[int], None],
    ) -> None:
        self.encoder, self.sources, self.names, self.settings = encoder, sources, names, settings
        self.digests, self.advance = stores[0].digests, advance
        self.unfinished: dict[bytes, str] = {}
        self._publishers = [_Publisher(store, settings.every_seconds) for store in stores]
        self._check: PrecisionCheck | None = None  # once the encoder is loaded
        self._real = self._padded = 0

    @property
    def padding(self) -> float:
        """The share of padding among the frames."""
        return 1 - self._real / self._padded if self._padded else 0.0

    def run(self, portions: Iterator[Sequence[bytes]]) -> None:
        """Computes the sources of some keys after those of others; all of it is written at the end.

        Args:
            portions: keys. The next ones are asked for while the last are computed.

        Raises:
            UserError: a file changed while it was read, the stored dtype cannot hold a value, or the device computes
                wrong features in the encoder's precision.
        """
        first = next(portions, None)
        if first is None:
            return
        if self._check is None:
            self.encoder.load()
            device = "cpu" if self.encoder.on_cpu else self.settings.device or own_device()
            self.encoder.to(device).eval()
            self._check = PrecisionCheck(self.encoder, device)
        for publisher in self._publishers:
            publisher.publish()  # nothing: the time until it does so begins now
        try:
            with (
                closing(self._read_ahead(chain([first], portions))) as windows,
                torch.inference_mode(),
                exact_float32(),
            ):
                for window in windows:
                    for batch in _batches(window, self.encoder, self.settings.batch_size):
                        self._add(batch, self._check)
        finally:
            for publisher in self._publishers:
                publisher.publish()

    def _add(self, items: Sequence[tuple[bytes, Any]], check: PrecisionCheck) -> None:
        """Computes a batch and hands it to the publishers."""
        unfinished = {key: str(item) for key, item in items if isinstance(item, UnfinishedDecodingError)}
        batch = [(key, item) for key, item in items if key not in unfinished]
        lengths = []
        for key, rows, reason in _encode(self.encoder, batch, self.names, check):
            layers = np.split(rows, len(self._publishers), axis=1)  # (T, D) of (T, L · D)
            for publisher, layer in zip(self._publishers, layers, strict=True):
                publisher.add(key, np.ascontiguousarray(layer), reason)
            if reason is None:
                lengths.append(len(rows))
        self.unfinished |= unfinished
        self._real += sum(lengths)
        self._padded += max(lengths, default=0) * len(lengths)
        self.advance(len(items))

    def _read_ahead(self, portions: Iterator[Sequence[bytes]]) -> Generator[Sequence[tuple[bytes, Any]]]:
        """Yields windows of (key, item or `MediaError`) in the given order, decoded ahead in threads."""

        def read(key: bytes, source: Source) -> tuple[bytes, Any]:
            try:
                item = self.encoder.read(replace(source, processes=processes))
            except MediaError as error:
                item = error
            # the content must still be the one that the key stands for
            if source.path is not None and source.key(self.digests.digest) != key.hex():
                raise UserError(f"expected {source.path} to stay the same, got a change while it was read; start again")
            return key, item

        settings, pending = self.settings, deque[list[Future[tuple[bytes, Any]]]]()
        size = settings.batch_size * BATCHES_OF_A_WINDOW
        processes = DecodingProcesses(seconds=settings.clip_seconds, most_bytes=settings.clip_bytes)
        with ThreadPoolExecutor(settings.workers) as pool, processes:
            for keys in portions:
                for publisher in self._publishers:
                    publisher.expect(keys)
                for start in range(0, len(keys), size):
                    pending.append([pool.submit(read, key, self.sources[key]) for key in keys[start : start + size]])
                    if len(pending) > AHEAD:
                        yield [future.result() for future in pending.popleft()]
            while pending:
                yield [future.result() for future in pending.popleft()]


def _batches(
    window: Sequence[tuple[bytes, Any]], encoder: Encoder, batch_size: int
) -> Iterator[Sequence[tuple[bytes, Any]]]:
    """Yields batches of similar length, or of equal length where padding changes the output."""

    def length(item: tuple[bytes, Any]) -> int:
        return -1 if isinstance(item[1], MediaError) else encoder.length(item[1])

    window, start = sorted(window, key=length), 0
    for end in range(1, len(window) + 1):
        full = end - start == batch_size
        longer = not encoder.pads_exactly and end < len(window) and length(window[end]) != length(window[start])
        if full or longer or end == len(window):
            yield window[start:end]
            start = end


def _encode(
    encoder: Encoder, batch: Sequence[tuple[bytes, Any]], names: Mapping[bytes, str], check: PrecisionCheck
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
    features, mask = encoder.encode({key: tensor.to(check.device) for key, tensor in inputs.items()})
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
