"""Sound files, and the sound tracks of videos, as mono waveforms."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.random import Generator

from emorec.annotations import NonNegative
from emorec.media.augmentation import AudioAugmentation, generator_of
from emorec.media.conditioning import Compression, compress, pre_emphasise, trim_silence, with_loudness
from emorec.media.decoding_process import SHARED
from emorec.media.signal import Waveform, resampled
from emorec.media.source import MediaError, MediaSettings, Source

SILENCE = 1e-5  # of full scale; a 16-bit file below it holds only zeros
LOWEST_RATE = 4000  # Hz
MAXIMUM_SECONDS = 3600.0
LONGEST = 360_000  # seconds that may be allowed


@dataclass(frozen=True, kw_only=True)
class AudioSettings(MediaSettings):
    """How sound is read; every field counts in a feature's identity.

    Sound is resampled and then conditioned, in the order of the fields. Views are augmented last, so that `loudness`
    does not undo their gain.

    Attributes:
        sample_rate: Hz of the waveform.
        minimum_seconds: shorter sound is refused.
        maximum_seconds: longer sound is refused before it fills the memory; `None` for an hour.
        trim: dB below the loudest frame; quieter sound is cut off at both ends.
        compression: settings of a compressor of the dynamics.
        loudness: LUFS of every utterance.
        pre_emphasis: coefficient of the filter that raises high frequencies, such as 0.97.
        augmentation: how views differ.
    """

    where: ClassVar[str] = "encoder.audio.media"
    sample_rate: Annotated[int, Ge(LOWEST_RATE)] = 16_000
    minimum_seconds: NonNegative = 0.05
    maximum_seconds: Annotated[float, Gt(0), Le(LONGEST)] | None = None
    trim: Annotated[float, Ge(1), Le(120)] | None = None
    compression: Compression | None = None
    loudness: Annotated[float, Ge(-70), Le(0)] | None = None
    pre_emphasis: Annotated[float, Ge(0), Le(1)] | None = None
    augmentation: AudioAugmentation | None = None

    @property
    def limit(self) -> float:
        """Seconds of the longest sound that is read."""
        return MAXIMUM_SECONDS if self.maximum_seconds is None else self.maximum_seconds


def read_audio(source: Source, settings: AudioSettings) -> Waveform:
    """The sound of a source, or of the view that it names: mono, float32, (samples,), at the settings' rate.

    Full scale is ±1; sound mixed from 5.1 can exceed it. Times count on the file's clock, as those of its picture do:
    sound that starts later has silence in front.

    Raises:
        MediaError: the sound is not decodable, empty, truncated, too short, too long, silent, or not a number.
        OSError: the file is missing or may not be read.
    """
    return read_view(source, settings)[0]


def read_view(source: Source, settings: AudioSettings) -> tuple[Waveform, Generator | None]:
    """As `read_audio`, with the random generator that the rest of an augmented view draws from; `None` for view 0."""
    path = source.path
    assert path is not None
    processes = source.processes or SHARED
    decoded, rate = processes.sound(path, start=source.start, end=source.end, maximum_seconds=settings.limit)
    _check(decoded, rate, settings.minimum_seconds)
    waveform = resampled(decoded, rate, settings.sample_rate)
    if source.change is not None:  # at this rate, so that noise is in the band that is heard, whatever the file's
        waveform = source.change(waveform, settings.sample_rate)
    waveform = _conditioned(waveform, settings)
    if source.view == 0 or settings.augmentation is None:
        return waveform, None
    generator = generator_of(source.view, path, source.segment)
    shortest = round(settings.minimum_seconds * settings.sample_rate)
    return settings.augmentation.vary(waveform, generator, shortest=shortest), generator


def _check(waveform: Waveform, rate: int, minimum_seconds: float) -> None:
    if len(waveform) == 0:
        raise MediaError("the sound has no samples")
    if len(waveform) < minimum_seconds * rate:
        raise MediaError(f"the sound is too short: expected {minimum_seconds} s, got {len(waveform) / rate:.3f} s")
    if not np.isfinite(waveform).all():
        raise MediaError("the sound has samples that are not numbers")
    if np.abs(waveform).max() < SILENCE:
        raise MediaError("the sound is silent")


def _conditioned(waveform: Waveform, settings: AudioSettings) -> Waveform:
    if settings.trim is not None:
        waveform = trim_silence(waveform, settings.sample_rate, settings.trim)
    if settings.compression is not None:
        waveform = compress(waveform, settings.sample_rate, settings.compression)
    if settings.loudness is not None:
        waveform = with_loudness(waveform, settings.sample_rate, settings.loudness)
    if settings.pre_emphasis is not None:
        waveform = pre_emphasise(waveform, settings.pre_emphasis)
    seconds, wanted = len(waveform) / settings.sample_rate, settings.minimum_seconds
    if settings.trim is not None and seconds < wanted:
        reason = "the sound is too short without the silence at its ends"
        raise MediaError(f"{reason}: expected {wanted} s, got {seconds:.3f} s")
    if not np.isfinite(waveform).all():
        raise MediaError("the conditioned sound has samples that are not numbers")
    return waveform


def audio_seconds(source: Source, settings: AudioSettings) -> float:
    """Decodes a source and returns its length in seconds; raises as `read_audio` does."""
    return len(read_audio(source, settings)) / settings.sample_rate
