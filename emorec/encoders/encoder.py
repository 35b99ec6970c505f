"""The contract of an encoder: what it reads, what it makes of it, and what identifies its output."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emorec.annotations import Count
from emorec.augmentation.streams import Augment
from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.media.faces import FaceMisses
from emorec.media.source import MediaSettings, Source
from emorec.storage.digests import FileDigests

if TYPE_CHECKING:
    from emorec.encoders.trained import Front, TrainedPart

Training = Literal["frozen", "full", "lora"]
StoredType = Literal["float16", "float32"]  # of features; decoded inputs have types of their own
Decoded = Literal["tokens", "sound", "bands", "frames"]
Inputs = dict[str, Tensor]


@dataclass(kw_only=True, eq=False)
class Encoder(nn.Module, ABC):
    """Turns an utterance's media into features (T, D).

    The work is in three steps: `read` decodes one source (on the CPU, in worker threads), `collate` makes a batch of
    the decoded items, `encode` computes the features of the batch. An encoder loads its weights in `load`, and only
    there.

    A subclass is a dataclass of the same form. Its fields are its constructor's arguments and the keys of its YAML;
    their annotations say which values are valid. It calls `super().__post_init__` before it sets any module or tensor.

    Class attributes:
        modality: "text", "audio" or "video".
        version: counts up whenever the output changes; a golden test checks it.
        has_spectrogram: whether masks of a spectrogram apply to its augmented views.
        on_cpu: whether it stays on the CPU, whatever device there is.
        trainable: the values of `training` that it supports.

    Attributes:
        mode: what `training` is; `nn.Module.training` is another attribute.
        media: how media are decoded; `None` for encoders that decode none.
        pads_exactly: false where an utterance's features depend on the padding that longer batch mates cause; such an
            encoder gets batches of equal length only. Valid once the encoder is loaded.
        precision: what `encode` computes in; the features are float32 in any case.
        digests: digests of the files that decide the output; encoders can share them.
        augmentation: settings of how the inputs of one that trains are augmented; `None` for not at all.
        face_misses: counts the clips without a face; `None` for encoders that read no pictures.

    Args:
        training: "frozen" encoders go through the feature store; "full" and "lora" ones train with the model.
        dtype: how features are stored.
        views: number of augmented views of each utterance for training, beside the utterance as it is.
    """

    modality: ClassVar[str]
    version: ClassVar[int]
    has_spectrogram: ClassVar[bool] = False
    on_cpu: ClassVar[bool] = False
    trainable: ClassVar[tuple[Training, ...]] = ("frozen",)

    training: InitVar[Training] = "frozen"  # type: ignore[assignment]
    dtype: StoredType = "float32"
    views: Count = 0
    media: MediaSettings | None = field(default=None, init=False)
    pads_exactly: bool = field(default=True, init=False)
    precision: str = field(default="float32", init=False)
    augmentation: Any = field(default=None, init=False)
    digests: FileDigests = field(default_factory=FileDigests, init=False, repr=False)
    face_misses: FaceMisses | None = field(default=None, init=False, repr=False)

    def __post_init__(self, training: Training) -> None:
        super().__init__()
        if training not in self.trainable:
            expected = " or ".join(self.trainable)
            raise UserError(f"expected {self.where}.training={expected} for {type(self).__name__}, got {training!r}")
        self.mode: Training = training

    @property
    def where(self) -> str:
        """The encoder's key in the config, for errors."""
        return f"encoder.{self.modality}"

    @property
    @abstractmethod
    def dim(self) -> int:
        """D of one layer's features."""

    @property
    def layers(self) -> tuple[int | None, ...]:
        """The L layers whose features `encode` returns side by side; each layer is stored by itself."""
        return (None,)

    @property
    def name(self) -> str:
        """Its name in specs."""
        return type(self).__name__

    def stored(self) -> "Encoder":
        """The encoder whose output the feature store keeps: of one that trains, the frozen part below the cut."""
        return self

    def checkpoint_files(self) -> list[Path]:
        """The files of the pretrained checkpoint that it loads; none of an encoder without one."""
        return []

    def trained(self) -> "TrainedPart | None":
        """A new trained part, with its weights; `None` of a frozen encoder.

        Raises:
            UserError: the arguments do not fit the network.
        """
        return None

    def front(self) -> "Front | None":
        """What turns stored inputs into those of the trained part; `None` where they are the same."""
        return None

    def augment(self) -> Augment | None:
        """How the inputs of the trained part are augmented in training.

        Raises:
            UserError: the settings do not fit the inputs.
        """
        return None

    def trained_part(self) -> "TrainedPart | None":
        """As `trained`, with what comes before it in the model."""
        part = self.trained()
        if part is not None:
            part.front, part.augment = self.front(), self.augment()
        return part

    @property
    def decodes(self) -> Decoded:
        """What it decodes a source to, before any network: "bands" are those of Whisper, (T, bands)."""
        kinds: dict[str, Decoded] = {"text": "tokens", "audio": "sound", "video": "frames"}
        return kinds[self.modality]

    def as_part(self) -> "TrainedPart | None":
        """A new network, in evaluation mode, from what is decoded to the features that are stored.

        It is `None` where the decoded input itself is stored. Sound has the full scale of 16 bits.

        Raises:
            UserError: its features are not computed by a network that can stand in another one.
        """
        raise UserError(f"{type(self).__name__} computes its features outside a network")

    @property
    def needs_fit(self) -> bool:
        """Whether it has yet to learn a state, such as a vocabulary, from the training split."""
        return False

    @property
    def state(self) -> str | None:
        """Digest of the state that it learned from data; `None` where there is none."""
        return None

    def fit(self, sources: Sequence[Source]) -> None:
        """Learns its state from the sources of the training split."""

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Takes its state from what a run has kept: the weights and buffers of its trained part, by name."""

    def check_views(self) -> None:
        """Raises a `UserError` where augmented views are asked for and there is nothing to augment."""
        if self.media is not None:
            self.media.check_views(self.views, self.where, spectrogram=self.has_spectrogram)
        elif self.views:
            name = type(self).__name__
            raise UserError(f"expected {self.where}.views=0 for {name}, which has no views, got {self.views}")

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The encoder's own fields of the spec: any of `checkpoint`, `revision`, `pooling`, `processor`, `state`."""

    def specs(self, *, augmented: bool = False) -> tuple[dict[str, Any], ...]:
        """The identity of each layer's output, for sources as they are or for augmented views.

        Loads no weights and imports no backbone.
        """
        own = self.settings()
        fields: dict[str, Any] = {**dict.fromkeys(("checkpoint", "revision", "pooling", "state")), "processor": {}}
        assert own.keys() <= fields.keys(), own.keys()
        media = {} if self.media is None else self.media.identity(augmented=augmented)
        named = {"encoder": self.name, "version": self.version, "dtype": self.dtype}
        return tuple({**named, **fields, **own, "media": media, "layer": layer} for layer in self.layers)

    def spec(self) -> dict[str, Any]:
        """The identity of the first layer's output for a source as it is."""
        return self.specs()[0]

    def source(self, utterance: Utterance, manifest: Manifest, *, view: int = 0) -> Source | None:
        """The source of an utterance, or of its augmented `view` if above 0; `None` where it lacks the modality."""
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
        """Decodes a source, by `read_audio` or `read_video`, which decode in a process of their own.

        Raises:
            MediaError: its content cannot be used.
            OSError: its file is missing or may not be read.
        """

    def length(self, item: Any) -> int:
        """The length of an item that `read` returned; batches consist of items of similar length."""
        return len(item)

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> Inputs:
        """Makes a batch of items that `read` returned."""

    @contextmanager
    def at_float32(self) -> Iterator[None]:
        """Within the block `encode` computes in float32."""
        precision, self.precision = self.precision, "float32"
        try:
            yield
        finally:
            self.precision = precision

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

    def collate(self, items: Sequence[NDArray[np.float32]]) -> Inputs:
        lengths = torch.tensor([len(item) for item in items])
        values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True)
        return {"values": values, "mask": torch.arange(values.shape[1]) < lengths[:, None]}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return inputs["values"], inputs["mask"]
