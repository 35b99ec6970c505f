"""Mel-frequency cepstral coefficients with chroma: frames, or functionals of them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from emorec.encoders.encoder import Training
from emorec.encoders.functionals import FrameEncoder
from emorec.encoders.log_mel import Duration, in_samples
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.signal import mfcc, spectrogram
from emorec.media.source import Source

WINDOW = 0.025  # seconds
BANDS = 64
PITCH_CLASSES = 12
CONCERT_PITCH = 440.0  # Hz of A
CHROMA_RANGE = (60.0, 5000.0)  # Hz


def chroma_filters(sample_rate: int, bins: int) -> Tensor:
    """Weights (bins, 12) of spectrogram bins in pitch classes, A first.

    A weight is a Gaussian of the distance in semitones, one semitone wide (after Fujishima 1999, "Realtime chord
    recognition of musical sound", with soft borders).
    """
    frequencies = torch.linspace(0, sample_rate / 2, bins)
    semitones = PITCH_CLASSES * torch.log2(frequencies.clamp_min(1.0) / CONCERT_PITCH)
    distance = (semitones[:, None] - torch.arange(PITCH_CLASSES)) % PITCH_CLASSES  # (bins, 12)
    distance = torch.minimum(distance, PITCH_CLASSES - distance)
    audible = (frequencies >= CHROMA_RANGE[0]) & (frequencies <= CHROMA_RANGE[1])
    return torch.exp(-0.5 * distance**2) * audible[:, None]


@dataclass(kw_only=True, eq=False)
class MfccChroma(FrameEncoder):
    """MFCCs, their first differences and chroma: D = 2 coefficients + 12.

    Args:
        media: how sound is read.
        coefficients: number of MFCCs.
        hop: seconds between frames.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    points: ClassVar[int] = 1024  # of the Fourier transform

    media: AudioSettings = field(default_factory=AudioSettings)
    coefficients: Annotated[int, Ge(1), Le(BANDS)] = 20
    hop: Duration = 0.010

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        rate, fastest = self.media.sample_rate, int(self.points / WINDOW)
        if rate > fastest:
            raise UserError(f"expected {self.where}.media.sample_rate of at most {fastest}, got {rate}")
        self._hop = in_samples(self.hop, rate, f"{self.where}.hop")

    @property
    def frame_dim(self) -> int:
        return 2 * self.coefficients + PITCH_CLASSES

    def settings(self) -> dict[str, Any]:
        processor = {"coefficients": self.coefficients, "hop": self._hop, "points": self.points}
        return {"pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        rate = self.media.sample_rate
        frames = {"points": self.points, "window": round(WINDOW * rate), "hop": self._hop}
        self._mfcc = mfcc(rate, coefficients=self.coefficients, bands=BANDS, **frames)
        self._spectrogram = spectrogram(**frames)
        self._chroma = chroma_filters(rate, self.points // 2 + 1)

    def frames(self, source: Source) -> NDArray[np.float32]:
        waveform = torch.from_numpy(read_audio(source, self.media))
        with torch.inference_mode():
            cepstrum = self._mfcc(waveform).T  # (T, coefficients)
            difference = torch.diff(cepstrum, dim=0, prepend=cepstrum[:1])
            chroma = self._spectrogram(waveform).T @ self._chroma  # (T, 12)
            chroma = chroma / chroma.amax(dim=1, keepdim=True).clamp_min(1e-8)
            frames: NDArray[np.float32] = torch.cat([cepstrum, difference, chroma], dim=1).numpy()
        return frames
