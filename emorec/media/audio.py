"""Sound files, and the sound tracks of videos, as mono waveforms."""

import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.media.source import MediaError, MediaSettings, Source

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".flv", ".webm", ".m4v"})
PACKETS_SECONDS = 0.25  # a container may state some packets more than there are
SILENCE = 1e-5  # full scale is 1; below this a 16-bit file holds nothing but zeros
# Mono from 5.1 (front left, right, centre, low frequencies, surround left, right) after ITU-R BS.775: speech is in
# the centre and keeps its level, and the low-frequency channel is not mixed in. FFmpeg, which mixes the sound tracks of
# videos, does the same.
SURROUND_WEIGHTS = np.array([2**-0.5, 2**-0.5, 1.0, 0.0, 0.5, 0.5], dtype=np.float32)

Waveform = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AudioSettings(MediaSettings):
    """How sound is read; every field counts in a feature's identity.

    Attributes:
        sample_rate: Hz of the waveform.
        minimum_seconds: shorter sound is refused.
    """

    sample_rate: int = 16_000
    minimum_seconds: float = 0.05


def read_audio(source: Source, settings: AudioSettings) -> Waveform:
    """The sound of a source: mono, float32, (samples,), full scale ±1 (5.1 can exceed it) at the settings' rate.

    Raises:
        MediaError: the sound is not decodable, empty, truncated, too short, silent, or not a number.
        OSError: the file is missing or may not be read.
    """
    path = source.path
    assert path is not None
    with path.open("rb") as stream:  # a missing file or a refused one is no fault of the content
        head = stream.read(12)
    if not head:
        raise MediaError("the file is empty")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        waveform, rate = _decode_sound_track(path)
        waveform = waveform[_sample(source.start, rate, 0) : _sample(source.end, rate, len(waveform))]
    else:
        _refuse_truncated_wav(path, head)
        waveform, rate = _decode_sound_file(path, source.start, source.end)
    _check(waveform, rate, settings.minimum_seconds)
    return _resampled(waveform, rate, settings.sample_rate)


def _sample(seconds: float | None, rate: int, default: int) -> int:
    return default if seconds is None else max(0, round(seconds * rate))


def _refuse_truncated_wav(path: Path, head: bytes) -> None:
    """libsndfile reads a WAV file that ends early without a word; its header tells the length it should have."""
    if len(head) == 12 and head[:4] == b"RIFF" and head[8:] == b"WAVE":
        stated = struct.unpack("<I", head[4:8])[0] + 8
        actual = os.path.getsize(path)
        if actual < stated < 0xFFFFFFF0:  # streams are written with the largest number for "unknown"
            raise MediaError(f"the file is truncated: its header states {stated} bytes, it has {actual}")


def _decode_sound_file(path: Path, start: float | None, end: float | None) -> tuple[Waveform, int]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as sound:
            first, last = _sample(start, sound.samplerate, 0), _sample(end, sound.samplerate, sound.frames)
            last = min(last, sound.frames)
            if first:
                sound.seek(min(first, sound.frames))
            samples = sound.read(max(0, last - first), dtype="float32", always_2d=True)
            rate = int(sound.samplerate)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"not decodable as sound: {error.error_string}") from error
    except MemoryError as error:
        raise MediaError("the header states more samples than memory holds") from error
    if len(samples) < last - first:
        raise MediaError(f"the file is truncated: expected {last - first} samples, got {len(samples)}")
    return _mono(samples), rate


def _mono(samples: NDArray[np.float32]) -> Waveform:
    """(samples, channels) to (samples,)."""
    if samples.shape[1] == len(SURROUND_WEIGHTS):
        mono: Waveform = samples @ SURROUND_WEIGHTS
        return mono
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _decode_sound_track(path: Path) -> tuple[Waveform, int]:
    import av
    import decord

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise MediaError("the video has no sound track")
            track = container.streams.audio[0]
            rate = int(track.rate)
            stated = float(track.duration * track.time_base) if track.duration and track.time_base else 0.0
        # More than one channel comes back uninitialised from decord; mixed down while decoding, it does not.
        samples = decord.AudioReader(str(path), sample_rate=rate, mono=True)[:].asnumpy()
    except (av.FFmpegError, decord.DECORDError, IndexError) as error:
        raise MediaError(f"the sound track is not decodable: {_first_line(error)}") from error
    waveform = samples.reshape(-1).astype(np.float32, copy=False)
    if len(waveform) / rate < 0.99 * stated - PACKETS_SECONDS:
        raise MediaError(f"the sound track is truncated: expected {stated:.2f} s, got {len(waveform) / rate:.2f} s")
    return waveform, rate


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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


def audio_seconds(source: Source, settings: AudioSettings) -> float:
    """Decodes a source whole and returns its length in seconds; raises as `read_audio` does."""
    return len(read_audio(source, settings)) / settings.sample_rate
