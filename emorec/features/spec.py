"""The identity of a feature."""

import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from emorec.storage.digests import canonical_json, digest_of

SPEC_DIGITS = 12  # of the digest, in the name of a folder


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that determines a stored feature except its source. Each field changes the digest."""

    encoder: str  # its class
    version: int  # of the encoder's output
    dtype: str  # stored dtype: "float16" or "float32", or of decoded inputs "int16", "int32" or "uint8"
    checkpoint: str | None = None  # name of the model on the hub; "local" for a folder, whose path does not count
    revision: str | None = None  # commit on the hub, or digest of the folder
    layer: int | None = None  # of the hidden states
    pooling: str | None = None  # over time
    processor: dict[str, Any] = field(default_factory=dict)  # settings of the tokenizer or of the signal transform
    media: dict[str, Any] = field(default_factory=dict)  # settings of the decoder
    state: str | None = None  # digest of the state that the encoder learned from data
    schema: int = 1  # version of the shard format

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return digest_of(asdict(self))

    @property
    def canonical(self) -> str:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @property
    def folder_name(self) -> str:
        """`<encoder>-<first 12 digits of the digest>`."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.encoder).lower()
        return f"{words}-{self.digest[:SPEC_DIGITS]}"
