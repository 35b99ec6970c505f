"""The identity of a feature."""

import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from emorec.storage.digests import canonical_json, digest_of

SCHEMA = 1  # of the shards


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """All that decides a stored feature but its source. Each field changes the digest.

    Attributes:
        encoder: the encoder's class.
        version: of the encoder's output.
        dtype: of the stored values, "float16" or "float32".
        checkpoint: the model's name on the hub; "local" for a folder, whose path does not count.
        revision: commit on the hub, or the folder's digest.
        layer: which hidden states.
        pooling: over time.
        processor: settings of the tokenizer or of the signal transform.
        media: settings of the decoder.
        state: digest of what the encoder learned from data.
        schema: version of the shards' layout.
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
    schema: int = SCHEMA

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
