"""Sound as it is: what encoders that train on waveforms read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emorec.augmentation.spans import length_mask
from emorec.augmentation.streams import Augment
from emorec.encoders.below_cut import as_rows
from emorec.encoders.encoder import Encoder, Inputs
from emorec.encoders.log_mel import FLOOR
from emorec.encoders.speech_part import FULL_SCALE
from emorec.encoders.trained import Front, TrainedPart
from emorec.layers import is_exported
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.signal import mel_filters
from emorec.media.source import Source


@dataclass(kw_only=True, eq=False)
class Waveform(Encoder):
    """Sound (S, 1) as 16-bit numbers.

    Args:
        media: how sound is read.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    on_cpu: ClassVar[bool] = True

    media: AudioSettings = field(default_factory=AudioSettings)

    def __post_init__(self, training: Any) -> None:
        super().__post_init__(training)
        self.dtype = "int16"  # type: ignore[assignment]

    @property
    def dim(self) -> int:
        return 1

    def settings(self) -> dict[str, Any]:
        return {}

    def as_part(self) -> None:
        return None

    def read(self, source: Source) -> NDArray[np.int16]:
        return sixteen_bit(read_audio(source, self.media))

    def collate(self, items: Sequence[NDArray[np.int16]]) -> Inputs:
        lengths = torch.tensor([len(item) for item in items])
        values = nn.utils.rnn.pad_sequence([torch.from_numpy(item) for item in items], batch_first=True)
        return {"values": values, "mask": length_mask(lengths, values.shape[1])}

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return inputs["values"], inputs["mask"]


def sixteen_bit(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """A waveform (S,), full scale ±1, as 16-bit numbers (S, 1)."""
    return as_rows(np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE), np.int16)


class LogMelFront(Front):
    """Waveforms to the frames that `LogMel` computes of them, on the device; in training of augmented waveforms.

    Args:
        rate: Hz.
        bands: number of mel bands.
        window: samples of a frame.
        hop: samples between frames.
        augment: of waveforms in training.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, *, rate: int, bands: int, window: int, hop: int, augment: Augment | None) -> None:
        super().__init__(augment)
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters", mel_filters(rate, points=window, bands=bands), persistent=False)

    def forward(self, values: Tensor, mask: Tensor, draw: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames (B, T, bands) and their mask (B, T) of sound (B, S, 1) with its mask (B, S).

        Args:
            draw: (B,) int64, from which augmentation is drawn; `None` for none.
        """
        lengths = mask.sum(1)
        missing = lengths == 0
        if (self.training or self.gives_views) and self.augment is not None and draw is not None:
            values, lengths = self.augment(values, lengths.clamp_min(1), draw)
        frames = torch.div(lengths, self.hop, rounding_mode="floor") + 1
        sound = values[:, :, 0].float() / FULL_SCALE
        with torch.autocast(sound.device.type, enabled=False):
            powers = self._powers(sound).transpose(1, 2) @ self.filters  # (B, T, bands)
        return powers.clamp_min(FLOOR).log(), length_mask(frames.masked_fill(missing, 0), powers.shape[1])

    def _powers(self, sound: Tensor) -> Tensor:
        """The power spectrogram (B, points / 2 + 1, T) of sound (B, S).

        In an exported graph it is a convolution, since few formats have complex numbers.
        """
        points = len(self.window)
        if not is_exported():
            spectrum = torch.stft(
                sound, points, self.hop, points, self.window, pad_mode="constant", return_complex=True
            )
            return spectrum.abs().square()
        parts = nn.functional.conv1d(sound[:, None], fourier_waves(points), stride=self.hop, padding=points // 2)
        cosines, sines = parts.chunk(2, dim=1)
        return cosines.square() + sines.square()


@lru_cache(maxsize=4)
def fourier_waves(points: int) -> Tensor:
    """(points + 2, 1, points) the cosines and then the sines of a Fourier transform, times a Hann window."""
    steps = 2 * np.pi / points * np.arange(points)
    angles = np.outer(np.arange(points // 2 + 1), steps)
    waves = np.concatenate([np.cos(angles), np.sin(angles)]) * (0.5 - 0.5 * np.cos(steps))
    return torch.from_numpy(waves.astype(np.float32))[:, None]


class LogMelPart(TrainedPart):
    """`LogMel` as a network, of sound (N, S, 1) with the full scale of 16 bits; it has no weights.

    Args:
        rate, bands, window, hop: see `LogMelFront`.
    """

    def __init__(self, *, rate: int, bands: int, window: int, hop: int) -> None:
        super().__init__()
        self.bands = bands
        self.spectrogram = LogMelFront(rate=rate, bands=bands, window=window, hop=hop, augment=None)

    @property
    def frame_dim(self) -> int:
        return self.bands

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames, mask = self.spectrogram(values, length_mask(lengths, values.shape[1]))
        return frames, mask.sum(1)
