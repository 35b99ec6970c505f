"""The contract of an encoder: what it reads, what it makes of it, and what identifies its output."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.media.fields import checked_count
from emorec.media.source import MediaSettings, Source

Training = Literal["frozen", "full", "lora"]
StoredType = Literal["float16", "float32"]
Inputs = dict[str, Tensor]


class Encoder(nn.Module, ABC):
    """Turns an utterance's media into features (T, D).

    The work is in three steps: `read` decodes one source (on the CPU, in worker threads), `collate` makes a batch of
    what was read, `encode` runs the batch. An encoder loads its weights in `load`, and only there.

    Class attributes:
        modality: "text", "audio" or "video".
        version: counts up whenever the output changes; a golden test holds it.
        has_spectrogram: whether masks of a spectrogram apply to its augmented views.
        on_cpu: whether it stays on the CPU, whatever device there is.

    Attributes:
        pads_exactly: false where an utterance's features depend on the padding that longer batch mates give it; such an
            encoder gets batches of equal length only. Holds once the encoder is loaded.

    Args:
        training: "frozen" encoders go through the feature store; "full" and "lora" ones train with the model.
        dtype: how features are stored.
        views: how many augmented views of each utterance are made for training, beside the utterance as it is.
    """

    modality: ClassVar[str]
    version: ClassVar[int]
    has_spectrogram: ClassVar[bool] = False
    on_cpu: ClassVar[bool] = False
    pads_exactly: bool = True
    media: MediaSettings | None = None  # of those that decode media

    def __init__(self, *, training: Training = "frozen", dtype: StoredType = "float32", views: int = 0) -> None:
        super().__init__()
        checked_count(views, f"encoder.{self.modality}.views")
        if training != "frozen":
            raise UserError(f"expected training=frozen for {type(self).__name__}, got {training!r}")
        if dtype not in ("float16", "float32"):
            raise UserError(f"expected dtype float16 or float32 for {type(self).__name__}, got {dtype!r}")
        self.dtype: StoredType = dtype
        self.views = views

    @property
    @abstractmethod
    def dim(self) -> int:
        """D of one layer's features."""

    @property
    def layers(self) -> tuple[int | None, ...]:
        """The L layers whose features `encode` returns side by side; each is stored by itself."""
        return (None,)

    def check_views(self) -> None:
        """Raises a `UserError` where augmented views are asked for and there is nothing to augment."""
        if not self.views:
            return
        where = f"encoder.{self.modality}"
        if self.media is None:
            raise UserError(f"expected {where}.views=0 for {type(self).__name__}, which has no views, got {self.views}")
        self.media.check_views(self.views, where, spectrogram=self.has_spectrogram)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The fields of the spec that are this encoder's own: any of `checkpoint`, `revision`, `pooling`, `processor`,
        `state`."""

    def specs(self, *, augmented: bool = False) -> tuple[dict[str, Any], ...]:
        """What identifies the output of each layer, of sources as they are or of augmented views. Loads no weights and
        imports no backbone."""
        own = self.settings()
        fields: dict[str, Any] = {**dict.fromkeys(("checkpoint", "revision", "pooling", "state")), "processor": {}}
        assert own.keys() <= fields.keys(), own.keys()
        media = {} if self.media is None else self.media.identity(augmented=augmented)
        named = {"encoder": type(self).__name__, "version": self.version, "dtype": self.dtype}
        return tuple({**named, **fields, **own, "media": media, "layer": layer} for layer in self.layers)

    def spec(self) -> dict[str, Any]:
        """What identifies the output of the first layer for a source as it is."""
        return self.specs()[0]

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        """What will be read for the utterance; `None` where it lacks the modality.

        Args:
            utterance: of the manifest.
            manifest: the whole corpus.
            view: 0 for the utterance as it is, or the number of an augmented view.
        """
        if self.modality == "text":
            return None if utterance.text is None else Source(modality="text", text=utterance.text)
        path = utterance.audio if self.modality == "audio" else utterance.video
        if path is None:
            return None
        crop = utterance.crop if self.modality == "video" else None
        start, end = utterance.segment(self.modality)
        return Source(modality=self.modality, path=path, start=start, end=end, crop=crop, view=view)

    def load(self) -> None:
        """Loads the weights; called once before the first `collate` or `encode`."""

    @abstractmethod
    def read(self, source: Source) -> Any:
        """Decodes a source.

        Raises:
            MediaError: its content cannot be used.
            OSError: its file is missing or may not be read.
        """

    @abstractmethod
    def length(self, item: Any) -> int:
        """How long an item that `read` returned is: batches are made of items of similar length."""

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> Inputs:
        """A batch of what `read` returned."""

    @abstractmethod
    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Features (B, T, L · D) of the L layers with T ≥ 1, and mask (B, T), true where there is data."""


class UtteranceEncoder(Encoder):
    """An encoder without a network: its whole work is done in `read`, utterance by utterance."""

    on_cpu: ClassVar[bool] = True

    @abstractmethod
    def features(self, source: Source) -> NDArray[np.float32]:
        """The features (T, D) of one source."""

    def read(self, source: Source) -> NDArray[np.float32]:
        return self.features(source)

    def length(self, item: NDArray[np.float32]) -> int:
        return len(item)

    def collate(self, items: Sequence[NDArray[np.float32]]) -> Inputs:
        lengths = torch.tensor([len(item) for item in items])
        values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True)
        return {"values": values, "mask": torch.arange(values.shape[1]) < lengths[:, None]}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return inputs["values"], inputs["mask"]
