"""What encoders that are trained from scratch share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from emorec.annotations import PositiveCount
from emorec.encoders.encoder import Encoder, Inputs, StoredType, Training
from emorec.encoders.log_mel import Duration, LogMel
from emorec.encoders.trained import TrainedPart
from emorec.media.audio import AudioSettings
from emorec.media.source import Source


@dataclass(kw_only=True, eq=False)
class NetworkEncoder(Encoder):
    """A network without pretrained weights, which trains with the model on what another encoder computes."""

    trainable: ClassVar[tuple[Training, ...]] = ("full",)

    training: InitVar[Training] = "full"  # type: ignore[assignment]

    @cached_property
    @abstractmethod
    def below(self) -> Encoder:
        """The encoder whose features are the network's input."""

    @abstractmethod
    def trained(self) -> TrainedPart:
        """The network, with new weights."""

    def stored(self) -> Encoder:
        self.below.digests = self.digests
        return self.below

    @property
    def dim(self) -> int:
        return self.below.dim

    def settings(self) -> dict[str, Any]:
        return {}  # its arguments are in the config

    def read(self, source: Source) -> Any:
        return self.below.read(source)

    def collate(self, items: Sequence[Any]) -> Inputs:
        return self.below.collate(items)

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return self.below.encode(inputs)


@dataclass(kw_only=True, eq=False)
class LogMelNetwork(NetworkEncoder):
    """A network of log mel bands.

    Args:
        media: how sound is read.
        bands: number of mel bands.
        window: seconds of a frame.
        hop: seconds between frames.
    """

    modality: ClassVar[str] = "audio"

    media: AudioSettings = field(default_factory=AudioSettings)
    dtype: StoredType = "float16"
    bands: PositiveCount = 64
    window: Duration = 0.025
    hop: Duration = 0.010

    @cached_property
    def below(self) -> Encoder:
        return LogMel(media=self.media, bands=self.bands, window=self.window, hop=self.hop, dtype=self.dtype)
