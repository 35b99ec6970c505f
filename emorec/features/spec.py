"""The identity of a feature."""

import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from emorec.storage.digests import canonical_json, digest_of


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that determines a stored feature except its source. Each field changes the digest.

    Attributes:
        encoder: class of the encoder.
        version: version of the encoder's output.
        dtype: stored dtype, "float16" or "float32".
        checkpoint: name of the model on the hub; "local" for a folder, whose path does not count.
        revision: commit on the hub, or digest of the folder.
        layer: layer of the hidden states.
        pooling: pooling over time.
        processor: settings of the tokenizer or of the signal transform.
        media: settings of the decoder.
        state: digest of the state that the encoder learned from data.
        schema: version of the shard format.
    """

    encoder: str
    version: int
    dtype: str
    checkpoint: str | None = None
    revision: str | None = None
    layer: int | None = None
    pooling: str | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    media: dict[str, Any] = field(default_factory=dict)
    state: str | None = None
    schema: int = 1

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
        return f"{words}-{self.digest[:12]}"
