"""One immutable file of features: safetensors with packed values, offsets and keys.

    values   (ΣT, D)   rows of all entries, one entry after the other
    offsets  (N + 1,)  entry n has the rows offsets[n] to offsets[n + 1]
    keys     (N, 32)   sha256 of the source of each entry

The header contains the spec, a digest of the payload, and the reasons of entries without rows, whose sources cannot be
decoded. A shard is named by the sha256 of the whole file, by which a reader detects corruption.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.features.spec import FeatureSpec
from emorec.storage.atomic import write_bytes
from emorec.storage.digests import FileDigests, canonical_json

KEY_BYTES = 32
NAME_DIGITS = 32
SUFFIX = ".safetensors"
METADATA = "emorec"  # the only text of the header: JSON of spec, payload digest and reasons
TYPES = {"F16": np.float16, "F32": np.float32, "I64": np.int64, "U8": np.uint8}


class ShardError(Exception):
    """The file is not a complete shard of the spec of its folder."""


@dataclass(frozen=True)
class Shard:
    """An open shard. `values` is memory-mapped and starts at byte `values_start` of the file."""

    path: Path
    spec: dict[str, Any]
    values: NDArray[Any]
    offsets: NDArray[np.int64]
    keys: NDArray[np.uint8]
    reasons: dict[int, str]  # entry -> why its source cannot be decoded
    payload: str  # digest according to the header
    values_start: int

    def check_payload(self) -> None:
        """Raises a `ShardError` where the arrays do not match their digest in the header."""
        if payload_digest(self.values, self.offsets, self.keys) != self.payload:
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
    if not path.exists():
        write_bytes(path, content)
    return path


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The header of a shard: its tensors, its description (spec, payload, reasons) and the first byte of the data.

    Raises:
        ShardError: the header is incomplete.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ShardError(f"expected a header within {size} bytes, got one of {length}")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ShardError(f"expected a JSON header, got {error}") from error
    try:
        content = json.loads(header.pop("__metadata__")[METADATA])
        reasons = {int(entry): str(reason) for entry, reason in content["reasons"].items()}
        description = {"spec": content["spec"], "payload": str(content["payload"]), "reasons": reasons}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"expected a header that describes a shard, got {error!r}") from error
    return header, description, 8 + length


def verified_shard(path: Path, digests: FileDigests) -> Shard:
    """Opens a shard whose content matches its name. Raises as `open_shard`."""
    if digests.digest(path)[:NAME_DIGITS] != path.stem:
        raise ShardError("the content does not match its digest")
    return open_shard(path)


def open_shard(path: Path) -> Shard:
    """Opens a shard and maps its values.

    Raises:
        ShardError: the file is not a complete shard.
        OSError: the file cannot be read.
    """
    header, description, start = read_header(path)
    size = path.stat().st_size
    try:
        # one map per file; copy-on-write, since torch does not share read-only memory
        content = np.memmap(path, dtype=np.uint8, mode="c")
        arrays: dict[str, Any] = {}
        for name in ("values", "offsets", "keys"):
            first, last = header[name]["data_offsets"]
            shape, dtype = tuple(header[name]["shape"]), np.dtype(TYPES[header[name]["dtype"]])
            if start + last > size or last - first != int(np.prod(shape)) * dtype.itemsize:
                raise ShardError(f"expected {name} of shape {shape} within {size} bytes")
            arrays[name] = np.asarray(content[start + first : start + last]).view(dtype).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"expected the header of a shard, got {error!r}") from error
    offsets, entries, rows = arrays["offsets"], len(arrays["keys"]), len(arrays["values"])
    if len(offsets) != entries + 1 or offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
        raise ShardError("expected offsets that cover the values in order")
    return Shard(path=path, values_start=start + header["values"]["data_offsets"][0], **arrays, **description)
