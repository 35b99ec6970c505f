"""The frozen part of an encoder that trains: what the feature store keeps of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.augmentation.spans import length_mask
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.encoder import Decoded, Encoder, Inputs
from emorec.media.source import Source

if TYPE_CHECKING:
    from emorec.encoders.huggingface import HuggingFaceEncoder
    from emorec.encoders.trained import TrainedPart


class BelowCut(Encoder):
    """Decoded inputs, in their own type, or the states of the layer below the first one that trains.

    Args:
        whole: the encoder, whose `train_from` says where the cut lies.
    """

    whole: "HuggingFaceEncoder"

    def __init__(self, whole: "HuggingFaceEncoder") -> None:
        super().__init__(dtype=whole.dtype if whole.train_from else whole.decoded_dtype)
        object.__setattr__(self, "whole", whole)  # not a part of this one: its weights are others
        self.modality = whole.modality  # type: ignore[misc]
        self.version = whole.version  # type: ignore[misc]
        self.media, self.face_misses = whole.media, whole.face_misses
        self.digests = whole.digests
        self.on_cpu = not whole.train_from  # type: ignore[misc]
        self.precision = whole.precision if whole.train_from else "float32"
        self._part: Any = None

    @property
    def name(self) -> str:
        return f"{type(self.whole).__name__}{'States' if self.whole.train_from else 'Inputs'}"

    @property
    def dim(self) -> int:
        self.load()
        return int(self._part.frame_dim) if self.whole.train_from else self.whole.decoded_width

    @property
    def layers(self) -> tuple[int | None, ...]:
        return (self.whole.train_from or None,)

    def settings(self) -> dict[str, Any]:
        own = self.whole.decoded_settings()
        if not self.whole.train_from:
            return own
        whole = self.whole.settings()
        return {**whole, "pooling": None, "processor": {**whole["processor"], **own.get("processor", {})}}

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        return self.whole.source(utterance, manifest, view=view)

    @property
    def decodes(self) -> Decoded:
        return self.whole.decodes

    def as_part(self) -> "TrainedPart | None":
        if not self.whole.train_from:
            return None
        self.whole.check_float32()
        part = self.whole.part(first=0, wanted=(self.whole.train_from,), raw=True)
        return part.requires_grad_(False).eval()

    def load(self) -> None:
        if self.whole.train_from and self._part is None:
            part = self.whole.part(first=0, wanted=(self.whole.train_from,), raw=True)
            self._part = part.requires_grad_(False).eval()
            self.pads_exactly = part.pads_exactly

    def read(self, source: Source) -> NDArray[Any]:
        return self.whole.decoded(source)

    def collate(self, items: Sequence[NDArray[Any]]) -> Inputs:
        return padded_rows(items)

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        values, mask = inputs["values"], inputs["mask"]
        if not self.whole.train_from:
            return values, mask
        with self.whole.autocast(values.device, self.precision):
            features, frames = self._part(values, mask, mask[:, 0])
        return features.float(), frames


def padded_rows(items: Sequence[NDArray[Any]]) -> Inputs:
    """`values`: (B, T, I) of rows (T, I), and `mask`: (B, T)."""
    lengths = torch.tensor([len(item) for item in items])
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True)
    return {"values": values, "mask": length_mask(lengths, values.shape[1])}


def as_rows(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """(T, …) as rows (T, I) of a type."""
    return np.ascontiguousarray(values.reshape(len(values), -1).astype(dtype))
