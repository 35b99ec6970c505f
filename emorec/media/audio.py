"""Sound files, and the sound tracks of videos, as mono waveforms."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from emorec.errors import check_all
from emorec.media.augmentation import AudioAugmentation, generator_of
from emorec.media.conditioning import Compression, compress, pre_emphasise, trim_silence, with_loudness
from emorec.media.fields import checked_count, checked_number
from emorec.media.sound import Reader, decode_sound
from emorec.media.source import MediaError, MediaSettings, Source

SILENCE = 1e-5  # full scale is 1; below this a 16-bit file holds nothing but zeros
LOWEST_RATE = 4000  # Hz

Waveform = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AudioSettings(MediaSettings):
    """How sound is read; every field counts in a feature's identity.

    Sound is conditioned after it was resampled, in the order of the fields; a view is augmented after that, so that the
    loudness does not take its gain back.

    Attributes:
        sample_rate: Hz of the waveform.
        minimum_seconds: shorter sound is refused.
        trim: dB below the loudest frame; what is quieter is cut off at both ends.
        compression: `threshold` (dB of full scale), `ratio`, and if need be `attack` and `release` (seconds) of a
            compressor of the dynamics.
        loudness: LUFS that every utterance gets.
        pre_emphasis: coefficient of the filter that raises high frequencies, such as 0.97.
        augmentation: fields of `AudioAugmentation`.
    """

    where: ClassVar[str] = "encoder.audio.media"
    sample_rate: int = 16_000
    minimum_seconds: float = 0.05
    trim: float | None = None
    compression: Mapping[str, Any] | None = None
    loudness: float | None = None
    pre_emphasis: float | None = None

    def __post_init__(self) -> None:
        bounds = {"trim": (1.0, 120.0), "loudness": (-70.0, 0.0), "pre_emphasis": (0.0, 1.0)}

        def check(name: str) -> None:
            low, high = bounds[name]
            if getattr(self, name) is not None:
                checked_number(getattr(self, name), f"{self.where}.{name}", low=low, high=high)

        check_all(
            self.where,
            [
                lambda: checked_count(self.sample_rate, f"{self.where}.sample_rate", low=LOWEST_RATE),
                lambda: checked_number(self.minimum_seconds, f"{self.where}.minimum_seconds", low=0.0),
                *(partial(check, name) for name in bounds),
                lambda: self.compressor,
                lambda: self.variation,
            ],
        )

    @property
    def compressor(self) -> Compression | None:
        """What `compression` says, checked."""
        return None if self.compression is None else Compression.of(self.compression, f"{self.where}.compression")

    @property
    def variation(self) -> AudioAugmentation | None:
        return AudioAugmentation.of(self.augmentation, f"{self.where}.augmentation")

    def identity(self, *, augmented: bool = False) -> dict[str, Any]:
        own = super().identity(augmented=augmented)
        return own if self.compressor is None else {**own, "compression": asdict(self.compressor)}


def read_audio(source: Source, settings: AudioSettings, *, reader: Reader | None = None) -> Waveform:
    """The sound of a source: mono, float32, (samples,), full scale ±1 (5.1 can exceed it) at the settings' rate.

    Args:
        source: what is read; the view of it that it says.
        settings: how.
        reader: of sound tracks; `None` for decord, then PyAV.

    Raises:
        MediaError: the sound is not decodable, empty, truncated, too short, silent, or not a number.
        OSError: the file is missing or may not be read.
    """
    return read_view(source, settings, reader=reader)[0]


def read_view(
    source: Source, settings: AudioSettings, *, reader: Reader | None = None
) -> tuple[Waveform, Generator | None]:
    """As `read_audio`, with the source of what else is random in an augmented view; `None` for view 0."""
    path = source.path
    assert path is not None
    with path.open("rb") as stream:  # a missing file or a refused one is no fault of the content
        head = stream.read(12)
    if not head:
        raise MediaError("the file is empty")
    decoded, rate = decode_sound(path, head, source.start, source.end, reader)
    _check(decoded, rate, settings.minimum_seconds)
    waveform = _conditioned(_resampled(decoded, rate, settings.sample_rate), settings)
    variation = settings.variation if source.view else None
    if variation is None:
        return waveform, None
    generator = generator_of(source.view, path, source.segment)
    shortest = round(settings.minimum_seconds * settings.sample_rate)
    return variation.vary(waveform, generator, shortest=shortest), generator


def _check(waveform: Waveform, rate: int, minimum_seconds: float) -> None:
    if len(waveform) == 0:
        raise MediaError("the sound has no samples")
    if len(waveform) < minimum_seconds * rate:
        raise MediaError(f"the sound is too short: expected {minimum_seconds} s, got {len(waveform) / rate:.3f} s")
    if not np.isfinite(waveform).all():
        raise MediaError("the sound has samples that are not numbers")
    if np.abs(waveform).max() < SILENCE:
        raise MediaError("the sound is silent")


@lru_cache(maxsize=16)
def _resampler(rate: int, wanted: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(rate, wanted)


def _resampled(waveform: Waveform, rate: int, wanted: int) -> Waveform:
    if rate == wanted:
        return waveform
    import torch

    with torch.inference_mode():
        resampled: Waveform = _resampler(rate, wanted)(torch.from_numpy(np.ascontiguousarray(waveform))).numpy()
    return resampled


def _conditioned(waveform: Waveform, settings: AudioSettings) -> Waveform:
    if settings.trim is not None:
        waveform = trim_silence(waveform, settings.sample_rate, settings.trim)
    if settings.compressor is not None:
        waveform = compress(waveform, settings.sample_rate, settings.compressor)
    if settings.loudness is not None:
        waveform = with_loudness(waveform, settings.sample_rate, settings.loudness)
    if settings.pre_emphasis is not None:
        waveform = pre_emphasise(waveform, settings.pre_emphasis)
    seconds = len(waveform) / settings.sample_rate
    if settings.trim is not None and seconds < settings.minimum_seconds:
        raise MediaError(
            f"the sound is too short without the silence at its ends: expected {settings.minimum_seconds} s, "
            f"got {seconds:.3f} s"
        )
    if not np.isfinite(waveform).all():
        raise MediaError("the conditioned sound has samples that are not numbers")
    return waveform


def audio_seconds(source: Source, settings: AudioSettings) -> float:
    """Decodes a source whole and returns its length in seconds; raises as `read_audio` does."""
    return len(read_audio(source, settings)) / settings.sample_rate
