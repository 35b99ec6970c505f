"""Inputs of an encoder that trains, decoded during training instead of kept in a store."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from emorec.encoders.encoder import Encoder, Inputs
from emorec.errors import UserError
from emorec.media.source import MediaError, Source

AHEAD = 2  # batches that are decoded before they are needed


def decoded_rows(encoder: Encoder, source: Source) -> Tensor:
    """The rows (T, D) of a source that a store would keep, in their stored type.

    Raises:
        MediaError: its content cannot be used.
        OSError: its file is missing or may not be read.
    """
    with torch.no_grad():
        values, mask = encoder.encode(encoder.collate([encoder.read(source)]))
    rows = values[0][mask[0]].to(getattr(torch, encoder.dtype))
    if len(rows) == 0 or not bool(rows.isfinite().all()):
        raise MediaError(
            f"{type(encoder).__name__} returns {len(rows)} rows, not all of them finite in {encoder.dtype}"
        )
    return rows


class RowCount(Encoder):
    """How many rows an encoder makes of a source, which is stored instead of the rows themselves.

    It also tells bad media before the training starts.
    """

    whole: Encoder
    on_cpu = True

    def __init__(self, whole: Encoder) -> None:
        super().__init__(dtype="int32")  # type: ignore[arg-type]
        object.__setattr__(self, "whole", whole)  # not a part of this one
        self.modality = whole.modality  # type: ignore[misc]
        self.digests, self.face_misses = whole.digests, whole.face_misses

    @property
    def dim(self) -> int:
        return 1

    def settings(self) -> dict[str, Any]:
        return {}  # all of it is in the specs of the other encoder

    def specs(self, *, augmented: bool = False) -> tuple[dict[str, Any], ...]:
        spec = self.whole.spec()
        processor = {**spec["processor"], "dtype": spec["dtype"]}
        return ({**spec, "encoder": f"{self.whole.name}Rows", "processor": processor, "dtype": self.dtype},)

    def load(self) -> None:
        self.whole.load()

    def read(self, source: Source) -> int:
        return len(decoded_rows(self.whole, source))

    def length(self, item: int) -> int:
        return 1

    def collate(self, items: Sequence[int]) -> Inputs:
        return {"rows": torch.tensor(items, dtype=torch.int32)[:, None, None]}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return inputs["rows"], torch.ones(len(inputs["rows"]), 1, dtype=torch.bool)


class StreamedReader:
    """Reads as `FeatureReader` does, but decodes the media of N utterances whenever they are asked for.

    Args:
        encoder: computes nothing but decoded inputs, on the CPU.
        sources: of the utterances; `None` where one is absent.
        length: (N,) number of its rows; 0 where it is absent.
        workers: threads that decode ahead.
    """

    def __init__(self, encoder: Encoder, sources: Sequence[Source | None], length: Tensor, *, workers: int) -> None:
        self.encoder, self.sources, self.length, self.workers = encoder, tuple(sources), length, workers

    @property
    def dim(self) -> int:
        """D."""
        return self.encoder.dim

    @property
    def dtype(self) -> torch.dtype:
        """What the inputs would be stored in."""
        dtype: torch.dtype = getattr(torch, self.encoder.dtype)
        return dtype

    @property
    def present(self) -> Tensor:
        """(N,) true where there are inputs."""
        return self.length > 0

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureReader.gather`."""
        return next(self.batches(indices, [len(indices)]))

    def batches(self, indices: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """See `FeatureReader.batches`. The threads end with the iteration."""
        self.encoder.load()
        pending: deque[list[Future[Tensor]]] = deque()
        pool = ThreadPoolExecutor(self.workers)
        try:
            for batch in torch.split(indices, list(sizes)):
                pending.append([pool.submit(self._rows, index) for index in batch.tolist()])
                if len(pending) > AHEAD:
                    yield self._padded(pending.popleft())
            while pending:
                yield self._padded(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _rows(self, index: int) -> Tensor:
        source, expected = self.sources[index], int(self.length[index])
        if source is None or expected == 0:
            return torch.zeros(0, self.dim, dtype=self.dtype)
        try:
            rows = decoded_rows(self.encoder, source)
        except (MediaError, OSError) as error:
            raise UserError(f"expected {source.path} to stay as it was before the training, got {error}") from error
        if len(rows) != expected:
            raise UserError(f"expected {expected} rows of {source.path}, as before the training, got {len(rows)}")
        return rows

    def _padded(self, decoded: Sequence[Future[Tensor]]) -> tuple[Tensor, Tensor]:
        rows = [future.result() for future in decoded]
        lengths = torch.tensor([len(item) for item in rows])
        longest = max(1, int(lengths.max()))
        values = torch.zeros(len(rows), longest, self.dim, dtype=self.dtype)
        for target, item in zip(values, rows, strict=True):
            target[: len(item)] = item
        return values, torch.arange(longest) < lengths[:, None]
