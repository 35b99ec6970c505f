"""One immutable file of features: safetensors with packed values, offsets and keys.

    values   (ΣT, D)   rows of all entries, one entry after the other
    offsets  (N + 1,)  entry n has the rows offsets[n] to offsets[n + 1]
    keys     (N, 32)   sha256 of the source of each entry

The header contains the spec, a digest of the payload, and the reasons of entries without rows, whose sources cannot be
decoded. A shard is named by the sha256 of the whole file, by which a reader detects corruption. Nothing in a shard is
trusted: whoever can write to the cache can name a file by its digest.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emorec.features.spec import FeatureSpec
from emorec.storage.atomic import write_bytes
from emorec.storage.digests import FileDigests, canonical_json, digest_of
from emorec.storage.regular_files import IrregularFileError, open_regular

log = logging.getLogger(__name__)

KEY_BYTES = 32
NAME_DIGITS = 32
QUARANTINE_SUFFIX = ".bad"  # of a broken shard that was set aside
SUFFIX = ".safetensors"
METADATA = "emorec"  # the only text of the header: JSON of spec, payload digest and reasons
LARGEST_HEADER = 1 << 25  # bytes: the reasons of some 100 000 sources that cannot be decoded
TYPES = {
    **{"F16": np.float16, "F32": np.float32},
    **{"I16": np.int16, "I32": np.int32, "I64": np.int64, "U8": np.uint8},
}
STORED_TYPES = {
    "float16": "F16",
    "float32": "F32",
    "int16": "I16",
    "int32": "I32",
    "uint8": "U8",
}  # of the values, by the dtype of the spec
PAYLOAD = "payload:"  # kind of digest that is kept for a shard beside that of the whole file


class ShardError(Exception):
    """The file is not a complete shard of the spec of its folder."""


class Extent(NamedTuple):
    """Where an array is in the data of a shard."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    first: int  # byte
    last: int  # byte after it


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a shard, whose arrays have the dtypes and shapes of its spec and fill the file."""

    spec: dict[str, Any]
    spec_digest: str
    payload: str  # digest of the payload
    reasons: dict[int, str]  # entry -> why its source cannot be decoded
    extents: dict[str, Extent]  # of the arrays, by name
    start: int  # first byte of the data

    @property
    def entries(self) -> int:
        """The number of entries."""
        return self.extents["keys"].shape[0]


@dataclass(frozen=True)
class Shard:
    """An open shard. `values` is memory-mapped and starts at byte `values_start` of the file."""

    path: Path
    spec: dict[str, Any]
    spec_digest: str
    values: NDArray[Any]
    offsets: NDArray[np.int64]
    keys: NDArray[np.uint8]
    reasons: dict[int, str]  # entry -> why its source cannot be decoded
    payload: str  # digest according to the header
    values_start: int

    @property
    def dim(self) -> int:
        """The dimension of the features."""
        return int(self.values.shape[1])

    @property
    def actual_payload(self) -> str:
        """The digest of the arrays."""
        return payload_digest(self.values, self.offsets, self.keys)

    def check_payload(self, actual: str | None = None) -> None:
        """Raises a `ShardError` where the arrays, of the `actual` digest if it is known, differ from the header's."""
        if (self.actual_payload if actual is None else actual) != self.payload:
            raise ShardError("the payload does not match its digest")


def payload_digest(values: NDArray[Any], offsets: NDArray[np.int64], keys: NDArray[np.uint8]) -> str:
    """sha256 over the arrays of a shard, 64 hex digits."""
    digest = hashlib.sha256()
    for array in (keys, offsets, values):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_shard(
    folder: Path, spec: FeatureSpec, keys: list[bytes], values: list[NDArray[Any]], reasons: dict[int, str]
) -> Path:
    """Writes a shard into the folder of its spec and returns its path.

    Each entry has a key of 32 bytes and values (T, D) of the spec's dtype; for an entry with a reason, why its source
    cannot be decoded, they are (0, D).
    """
    from safetensors import numpy as safetensors_numpy

    packed = np.concatenate(values)
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in values])]).astype(np.int64)
    key_rows = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
    description = {
        "spec": asdict(spec),
        "payload": payload_digest(packed, offsets, key_rows),
        "reasons": {str(entry): reason for entry, reason in reasons.items()},
    }
    arrays = {"values": packed, "offsets": offsets, "keys": key_rows}
    # a single text: safetensors writes several in any order, and equal shards must be equal bytes
    content = safetensors_numpy.save(arrays, {METADATA: canonical_json(description)})
    path = folder / f"{hashlib.sha256(content).hexdigest()[:NAME_DIGITS]}{SUFFIX}"
    if not os.access(path, os.R_OK):  # another user's, closed to this one, is replaced
        write_bytes(path, content)
    return path


def read_header(path: Path) -> Header:
    """The header of a shard.

    Raises:
        ShardError: the file is no regular one, or its header does not describe a shard.
        OSError: the file cannot be read.
    """
    with _opened(path) as stream:
        return _read_header(stream)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path, follow=False) as stream:
            yield stream
    except IrregularFileError as error:
        raise ShardError(error.strerror) from error


def _read_header(stream: BinaryIO) -> Header:
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(size - 8, LARGEST_HEADER):
        raise ShardError(f"expected a header of at most {LARGEST_HEADER} bytes within {size}, got one of {length}")
    try:
        arrays = json.loads(stream.read(length))
        content = json.loads(arrays.pop("__metadata__")[METADATA])
        spec = content["spec"]
        reasons = {int(entry): str(reason) for entry, reason in content["reasons"].items()}
        words = (spec["encoder"], spec["dtype"], spec.get("checkpoint") or "", spec.get("revision") or "")
        "".join((*words, *reasons.values())).encode()  # they are text: JSON has more kinds of strings than UTF-8
        return Header(
            spec=spec,
            spec_digest=digest_of(spec),
            payload=str(content["payload"]),
            reasons=reasons,
            extents=_extents(arrays, spec["dtype"], size - 8 - length),
            start=8 + length,
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"expected a JSON header that describes a shard, got {error!r:.200}") from error


def _extents(arrays: dict[str, Any], stored_dtype: str, size: int) -> dict[str, Extent]:
    """Where the arrays of a header are in data of `size` bytes, which they fill one after the other.

    Raises:
        ShardError: other dtypes or shapes than those of a shard, or arrays that overlap or leave gaps.
    """
    dtypes = {"values": STORED_TYPES[stored_dtype], "offsets": "I64", "keys": "U8"}
    if arrays.keys() != dtypes.keys():
        raise ShardError(f"expected the arrays {sorted(dtypes)}, got {sorted(arrays)!r:.200}")
    extents, end = {}, 0
    for name, array in sorted(arrays.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        shape, (first, last) = tuple(array["shape"]), array["data_offsets"]
        if array["dtype"] != dtypes[name]:
            raise ShardError(f"expected {name} of type {dtypes[name]}, got {array['dtype']!r:.50}")
        dtype: np.dtype[Any] = np.dtype(TYPES[dtypes[name]])
        if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
            raise ShardError(f"expected whole numbers in the shape and extent of {name}")
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise ShardError(f"expected {name} of shape {shape} from byte {end} on, got bytes {first} to {last}")
        extents[name], end = Extent(dtype, shape, first, last), last
    if end != size:
        raise ShardError(f"expected {end} bytes of data, got {size}")
    entries = extents["keys"].shape[:1]
    shapes = (extents["keys"].shape, extents["offsets"].shape, len(extents["values"].shape))
    if shapes != ((*entries, KEY_BYTES), tuple(number + 1 for number in entries), 2):
        raise ShardError(f"expected keys (N, {KEY_BYTES}), offsets (N + 1,) and values (T, D), got {extents}")
    return extents


def verified_shard(path: Path, digests: FileDigests) -> Shard:
    """Opens a shard whose content matches its name and whose arrays match their digest. Raises as `open_shard`."""
    shard = open_shard(path)
    if digests.digest(path)[:NAME_DIGITS] != path.stem:
        raise ShardError("the content does not match its digest")
    shard.check_payload(digests.derived(PAYLOAD, path, lambda _: shard.actual_payload))
    return shard


def open_shard(path: Path) -> Shard:
    """Opens a shard and maps its values.

    Raises:
        ShardError: the file is not a complete shard, or its arrays are not those of its spec.
        OSError: the file cannot be read.
    """
    with _opened(path) as stream:
        header = _read_header(stream)
        # one map per file; copy-on-write, since torch does not share read-only memory
        data = np.asarray(np.memmap(stream, dtype=np.uint8, mode="c"))[header.start :]
    arrays: dict[str, NDArray[Any]] = {
        name: data[extent.first : extent.last].view(extent.dtype).reshape(extent.shape)
        for name, extent in header.extents.items()
    }
    _check_entries(arrays["offsets"], len(arrays["values"]), header.reasons)
    return Shard(
        path=path,
        spec=header.spec,
        spec_digest=header.spec_digest,
        reasons=header.reasons,
        payload=header.payload,
        values_start=header.start + header.extents["values"].first,
        **arrays,
    )


def _check_entries(offsets: NDArray[np.int64], rows: int, reasons: dict[int, str]) -> None:
    if offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] < offsets[:-1]).any():
        raise ShardError("expected offsets that cover the values in order")
    empty = np.flatnonzero(offsets[1:] == offsets[:-1]).tolist()
    if empty != sorted(reasons):
        raise ShardError("expected a reason for each entry without rows, and for no other")


def quarantine(path: Path, error: Exception) -> None:
    """Renames a broken shard, so that no reader opens it."""
    log.warning("the shard %s is broken and is set aside; its features are computed again: %s", path, error)
    with suppress(OSError):
        path.rename(path.with_name(path.name + QUARANTINE_SUFFIX))
