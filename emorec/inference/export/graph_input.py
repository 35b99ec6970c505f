"""What an exported graph takes of one modality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["features", "tokens", "sound", "bands", "frames"]
TYPES: Mapping[Kind, str] = {
    "features": "float32",
    "tokens": "int64",
    "sound": "float32",
    "bands": "float32",
    "frames": "uint8",
}
MEANING: Mapping[Kind, str] = {
    "features": "features of the encoder, one row a time step",
    "tokens": "numbers of the tokens of a text",
    "sound": "one channel of sound with the full scale -1 to 1",
    "bands": "log mel bands as the feature extractor of Whisper computes them, one row a time step",
    "frames": "RGB pictures with pixels from 0 to 255",
}


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """The values of one modality (B, T, …). `<name>_lengths` (B,) int64 says how many of the T are data."""

    name: str  # the modality
    kind: Kind  # what the values are, a key of `MEANING`
    sizes: tuple[int, ...] = ()  # of the dimensions after time
    steps: int | None = None  # T where it is fixed, else `None`
    shortest: int = 1  # the least T; a shorter input is padded with zeros
    longest: int | None = None  # the largest length; `None` where only memory limits it
    pads_exactly: bool = True  # whether padding changes nothing; else all inputs of a batch have one length
    vocabulary: int | None = None  # number of tokens, for kind "tokens"
    settings: dict[str, Any] = field(default_factory=dict)  # how media become values

    @property
    def lengths(self) -> str:
        """The name of the tensor of lengths."""
        return f"{self.name}_lengths"

    @property
    def dtype(self) -> str:
        """The type of the values."""
        return TYPES[self.kind]

    @property
    def axes(self) -> tuple[str | int, ...]:
        """The names of dimensions that vary, and the sizes of the others."""
        return ("batch", f"{self.name}_time" if self.steps is None else self.steps, *self.sizes)

    def described(self) -> dict[str, Any]:
        """It as plain data."""
        own = asdict(self)
        described = {key: own[key] for key in ("name", "kind", "shortest", "longest", "pads_exactly", "settings")}
        shape = {"lengths": self.lengths, "dtype": self.dtype, "axes": list(self.axes), "is": MEANING[self.kind]}
        vocabulary = {} if self.vocabulary is None else {"vocabulary": self.vocabulary}
        return {**described, **shape, **vocabulary}
