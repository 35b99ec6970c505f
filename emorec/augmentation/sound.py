"""Augmentation of what encoders of sound read."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from emorec.augmentation.spectrogram import SpectrogramAugmentation
from emorec.augmentation.streams import Augment
from emorec.augmentation.waveform import WaveformAugmentation
from emorec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SoundAugmentation:
    """Of waveforms, of spectrograms, or of waveforms and then of their spectrograms."""

    waveform: WaveformAugmentation | None = None
    spectrogram: SpectrogramAugmentation | None = None

    def of(self, inputs: Literal["waveform", "spectrogram"], *, rate: int, where: str) -> Augment | None:
        """The augmentation of an encoder that reads such inputs only.

        Raises:
            UserError: the other inputs are to be augmented.
        """
        other = "spectrogram" if inputs == "waveform" else "waveform"
        if getattr(self, other) is not None:
            raise UserError(f"expected {where}.{other}=null, for the encoder reads a {inputs}, got settings")
        return self.of_waveforms(rate) if inputs == "waveform" else self.of_spectrograms()

    def of_waveforms(self, rate: int) -> Augment | None:
        """That of waveforms of `rate` Hz."""
        return None if self.waveform is None else partial(self.waveform.vary, rate=rate)

    def of_spectrograms(self) -> Augment | None:
        """That of spectrograms."""
        return None if self.spectrogram is None else self.spectrogram.vary
