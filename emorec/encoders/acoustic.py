"""Mel-frequency cepstral coefficients with chroma: frames, or functionals of them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.encoders.encoder import StoredType, Training, UtteranceEncoder
from emorec.encoders.functionals import COUNT, checked_pooling, functionals
from emorec.errors import check_all
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.fields import checked_count, checked_number
from emorec.media.source import Source

WINDOW = 0.025  # seconds
BANDS = 64
PITCH_CLASSES = 12
CONCERT_PITCH = 440.0  # Hz of A
CHROMA_RANGE = (60.0, 5000.0)  # Hz


def chroma_filters(sample_rate: int, bins: int) -> Tensor:
    """Weights (bins, 12) that add spectrogram bins up by pitch class, A first.

    A bin counts for a class by a Gaussian of its distance in semitones, one semitone wide (after Fujishima 1999,
    "Realtime chord recognition of musical sound", with soft borders).
    """
    frequencies = torch.linspace(0, sample_rate / 2, bins)
    semitones = PITCH_CLASSES * torch.log2(frequencies.clamp_min(1.0) / CONCERT_PITCH)
    distance = (semitones[:, None] - torch.arange(PITCH_CLASSES)) % PITCH_CLASSES  # (bins, 12)
    distance = torch.minimum(distance, PITCH_CLASSES - distance)
    audible = (frequencies >= CHROMA_RANGE[0]) & (frequencies <= CHROMA_RANGE[1])
    return torch.exp(-0.5 * distance**2) * audible[:, None]


class MfccChroma(UtteranceEncoder):
    """MFCCs, their first differences and chroma.

    Args:
        media: how sound is read: fields of `AudioSettings`.
        coefficients: how many MFCCs.
        hop: seconds between frames.
        pooling: "none" for frames (T, 2 coefficients + 12), "functionals" for one vector of 8 times that.
        training: "frozen".
        dtype: how features are stored.
        views: augmented views of each utterance for training.
    """

    modality: ClassVar[str] = "audio"
    version: ClassVar[int] = 1
    points: ClassVar[int] = 1024  # of the Fourier transform

    def __init__(
        self,
        *,
        media: Mapping[str, Any] | None = None,
        coefficients: int = 20,
        hop: float = 0.010,
        pooling: str = "none",
        training: Training = "frozen",
        dtype: StoredType = "float32",
        views: int = 0,
    ) -> None:
        super().__init__(training=training, dtype=dtype, views=views)
        self.media: AudioSettings = AudioSettings.of(media, "encoder.audio.media")
        rate, where = self.media.sample_rate, "encoder.audio"
        fastest = int(self.points / WINDOW)
        check_all(
            where,
            [
                lambda: checked_number(rate, f"{where}.media.sample_rate", low=1, high=fastest),
                lambda: checked_number(
                    checked_count(coefficients, f"{where}.coefficients", low=1), f"{where}.coefficients", high=BANDS
                ),
                lambda: checked_number(hop, f"{where}.hop", low=1 / rate, high=10.0),
            ],
        )
        self.coefficients = coefficients
        self.hop = round(hop * rate)
        self.pooling = checked_pooling(pooling, "encoder.audio.pooling")
        self._mfcc: Any = None
        self._spectrogram: Any = None
        self._chroma: Tensor | None = None

    @property
    def dim(self) -> int:
        return (2 * self.coefficients + PITCH_CLASSES) * (COUNT if self.pooling == "functionals" else 1)

    def settings(self) -> dict[str, Any]:
        processor = {"coefficients": self.coefficients, "hop": self.hop, "points": self.points}
        return {"pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        import torchaudio

        rate = self.media.sample_rate
        frames: dict[str, Any] = {"n_fft": self.points, "win_length": round(WINDOW * rate), "hop_length": self.hop}
        frames["pad_mode"] = "constant"
        self._mfcc = torchaudio.transforms.MFCC(rate, self.coefficients, melkwargs={**frames, "n_mels": BANDS})
        self._spectrogram = torchaudio.transforms.Spectrogram(**frames)
        self._chroma = chroma_filters(rate, self.points // 2 + 1)

    def features(self, source: Source) -> NDArray[np.float32]:
        waveform = torch.from_numpy(read_audio(source, self.media))
        assert self._chroma is not None
        with torch.inference_mode():
            mfcc = self._mfcc(waveform).T  # (T, coefficients)
            difference = torch.diff(mfcc, dim=0, prepend=mfcc[:1])
            chroma = self._spectrogram(waveform).T @ self._chroma  # (T, 12)
            chroma = chroma / chroma.amax(dim=1, keepdim=True).clamp_min(1e-8)
            frames = torch.cat([mfcc, difference, chroma], dim=1).numpy()
        return functionals(frames) if self.pooling == "functionals" else frames
