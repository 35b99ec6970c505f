"""What encoders that are trained from scratch share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from emorec.annotations import PositiveCount
from emorec.augmentation.sound import SoundAugmentation
from emorec.augmentation.spans import length_mask
from emorec.augmentation.streams import Augment
from emorec.encoders.encoder import Encoder, Inputs, StoredType, Training
from emorec.encoders.log_mel import Duration, LogMel
from emorec.encoders.masked_norm import MaskedBatchNorm
from emorec.encoders.trained import TrainedPart
from emorec.encoders.waveform import LogMelFront, Waveform
from emorec.errors import UserError
from emorec.media.audio import AudioSettings
from emorec.media.source import Source


class NetworkPart(TrainedPart):
    """The trained part of a network without pretrained weights; it computes the same whatever the padding is."""

    @staticmethod
    def mask(values: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) true for the first `lengths` (N,) of the T frames of values (N, T, …)."""
        return length_mask(lengths, values.shape[1])

    def nothing(self, device: torch.device) -> Tensor:
        """As of `TrainedPart`, with this rank's share in the other ranks' batch statistics.

        The modules come in the order of `frames`, so that gradients and sums over the ranks are ready in the order in
        which the other ranks have them.
        """
        total = torch.zeros((), device=device)
        for module in self.modules():
            if self.training and isinstance(module, MaskedBatchNorm):
                total = total + module.absent()
            else:
                for parameter in module.parameters(recurse=False):
                    total = total + parameter.sum() * 0
        return total


@dataclass(kw_only=True, eq=False)
class NetworkEncoder(Encoder):
    """A network without pretrained weights, which trains with the model on what another encoder computes."""

    trainable: ClassVar[tuple[Training, ...]] = ("full",)

    training: InitVar[Training] = "full"  # type: ignore[assignment]

    @property
    @abstractmethod
    def below(self) -> Encoder:
        """The encoder whose features are the network's input."""

    @abstractmethod
    def trained(self) -> NetworkPart:
        """The network, with new weights."""

    def stored(self) -> Encoder:
        self.below.digests = self.digests
        return self.below

    @property
    def dim(self) -> int:
        return self.below.dim

    @property
    def needs_fit(self) -> bool:
        return self.below.needs_fit

    @property
    def state(self) -> str | None:
        return self.below.state

    def fit(self, sources: Sequence[Source]) -> None:
        self.below.fit(sources)

    def settings(self) -> dict[str, Any]:
        return {"state": self.state}  # its arguments are in the config

    def load(self) -> None:
        self.below.load()

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
        inputs: what is stored: "log_mel", or "waveform", of which the model computes them, so that sound can be
            augmented.
        augmentation: in training; of waveforms where these are stored.
    """

    modality: ClassVar[str] = "audio"
    has_spectrogram: ClassVar[bool] = True

    media: AudioSettings = field(default_factory=AudioSettings)
    dtype: StoredType = "float16"
    bands: PositiveCount = 64
    window: Duration = 0.025
    hop: Duration = 0.010
    inputs: Literal["log_mel", "waveform"] = "log_mel"
    augmentation: SoundAugmentation | None = None

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        if self.views and self.inputs == "waveform":
            raise UserError(f"expected {self.where}.views=0 with inputs=waveform, got {self.views}")

    @cached_property
    def _log_mel(self) -> LogMel:
        return LogMel(
            media=self.media,
            views=self.views,
            dtype=self.dtype,
            bands=self.bands,
            window=self.window,
            hop=self.hop,
        )

    @cached_property
    def below(self) -> Encoder:
        return self._log_mel if self.inputs == "log_mel" else Waveform(media=self.media)

    def front(self) -> LogMelFront | None:
        if self.inputs == "log_mel":
            return None
        rate = self.media.sample_rate
        augment = None if self.augmentation is None else self.augmentation.of_waveforms(rate)
        return LogMelFront(rate=rate, bands=self.bands, augment=augment, **self._log_mel.frame_samples)

    def augment(self) -> Augment | None:
        if self.augmentation is None:
            return None
        if self.inputs == "log_mel" and self.augmentation.waveform is not None:
            where = f"{self.where}.augmentation.waveform"
            raise UserError(f"expected {where}=null, or {self.where}.inputs=waveform, got settings and 'log_mel'")
        return self.augmentation.of_spectrograms()
