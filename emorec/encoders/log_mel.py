"""Log mel spectrogram: frames, or functionals of them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Le
from numpy.typing import NDArray

from emorec.annotations import PositiveCount
from emorec.encoders.encoder import Training
from emorec.encoders.functionals import FrameEncoder
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, read_view
from emorec.media.signal import Waveform, mel_spectrogram
from emorec.media.source import Source

if TYPE_CHECKING:
    from emorec.encoders.trained import TrainedPart

FLOOR = 1e-6  # lower powers are raised to it: -60 dB

Duration = Annotated[float, Gt(0), Le(10)]  # seconds


def in_samples(seconds: float, rate: int, where: str) -> int:
    """A duration in samples.

    Raises:
        UserError: it is shorter than one sample.
    """
    if seconds < 1 / rate:
        raise UserError(f"expected {where} of at least {1 / rate:g} s, one sample at {rate} Hz, got {seconds}")
    return round(seconds * rate)


@dataclass(kw_only=True, eq=False)
class LogMel(FrameEncoder):
    """Natural logarithm of mel band power: D = bands.

    Args:
        media: how sound is read.
        bands: number of mel bands.
        window: seconds of a frame.
        hop: seconds between frames.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    has_spectrogram: ClassVar[bool] = True

    media: AudioSettings = field(default_factory=AudioSettings)
    bands: PositiveCount = 64
    window: Duration = 0.025
    hop: Duration = 0.010

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        self._window = in_samples(self.window, self.media.sample_rate, f"{self.where}.window")
        self._hop = in_samples(self.hop, self.media.sample_rate, f"{self.where}.hop")

    @property
    def frame_dim(self) -> int:
        return self.bands

    @property
    def frame_samples(self) -> dict[str, int]:
        """`window` and `hop` in samples."""
        return {"window": self._window, "hop": self._hop}

    def settings(self) -> dict[str, Any]:
        processor = {"bands": self.bands, **self.frame_samples, "floor": FLOOR}
        return {"pooling": self.pooling, "processor": processor}

    def as_part(self) -> "TrainedPart | None":
        if self.pooling != "none":
            return super().as_part()
        from emorec.encoders.waveform import LogMelPart

        return LogMelPart(rate=self.media.sample_rate, bands=self.bands, **self.frame_samples).eval()

    def load(self) -> None:
        self._transform: Any = mel_spectrogram(
            self.media.sample_rate, points=self._window, window=self._window, hop=self._hop, bands=self.bands
        )

    def frames(self, source: Source) -> NDArray[np.float32]:
        waveform, generator = read_view(source, self.media)
        frames = self.frames_of(waveform)
        augmentation = self.media.augmentation
        if generator is not None and augmentation is not None and augmentation.masks_frames:
            frames = augmentation.mask(frames, generator, hop=self._hop / self.media.sample_rate)  # (T, bands)
        return frames

    def frames_of(self, waveform: Waveform) -> NDArray[np.float32]:
        """The frames (T, bands) of a waveform (samples,)."""
        with torch.inference_mode():
            powers = self._transform(torch.from_numpy(waveform))  # (bands, T)
            frames: NDArray[np.float32] = powers.clamp_min(FLOOR).log().T.contiguous().numpy()
        return frames
