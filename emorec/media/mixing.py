"""Mixes sound to mono.

Sound files become the mean of their channels, and the sound tracks of videos what FFmpeg makes of them. 5.1 is mixed
alike in both.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.media.signal import Waveform

SOUND_FILES = frozenset({"wav", "w64", "flac", "aiff", "au", "caf", "ogg", "mp3"})  # FFmpeg's names
PLANES = 8  # of a frame; FFmpeg keeps more elsewhere
NOTHING: Waveform = np.zeros(0, np.float32)
# Mono from 5.1 (front left, right, centre, low frequencies, surround left, right) after ITU-R BS.775, as FFmpeg mixes
# the sound tracks of videos: speech, in the centre, keeps its level, and low frequencies are left out.
SURROUND_WEIGHTS = np.array([2**-0.5, 2**-0.5, 1.0, 0.0, 0.5, 0.5], dtype=np.float32)


def mono_of(samples: NDArray[np.float32]) -> Waveform:
    """(samples, channels) to (samples,)."""
    if samples.shape[1] == len(SURROUND_WEIGHTS):
        mono: Waveform = samples @ SURROUND_WEIGHTS
        return mono
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


class Mixer:
    """Mixes the frames of a track to mono.

    Args:
        rate: Hz of the track, to which frames of other rates are resampled.
        container_name: FFmpeg's.
    """

    def __init__(self, rate: int, container_name: str) -> None:
        self._rate, self._is_sound_file = rate, container_name in SOUND_FILES
        self._kind: tuple[str, str, int] | None = None  # of frames; in joined files it changes
        self._resampler: Any = None  # of frames of another rate, and of those that PyAV cannot give as they are

    def mono(self, frame: Any) -> Waveform:
        """The mono samples of a frame."""
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind == self._kind and self._resampler is None:
            return self._mixed(frame)
        rest = NOTHING if kind == self._kind else self._changed(frame, kind)
        frames = [frame] if self._resampler is None else self._resampler.resample(frame)
        return np.concatenate([rest, *map(self._mixed, frames)])

    def rest(self) -> Waveform:
        """The samples that frames of another rate have left over."""
        frames = [] if self._resampler is None else self._resampler.resample(None)
        return np.concatenate([NOTHING, *map(self._mixed, frames)])

    def _changed(self, frame: Any, kind: tuple[str, str, int]) -> Waveform:
        import av

        rest = self.rest()
        # PyAV reads a plane too many of frames with 8, and ends the process
        is_other = frame.sample_rate != self._rate or (frame.format.is_planar and frame.layout.nb_channels >= PLANES)
        self._kind = kind
        self._resampler = av.AudioResampler("flt", frame.layout, self._rate) if is_other else None
        return rest

    def _mixed(self, frame: Any) -> Waveform:
        samples = samples_of(frame)
        if self._is_sound_file or samples.shape[1] == 1:
            return mono_of(samples)
        mono: Waveform = samples @ mixing_weights(frame.layout.name)
        return mono


def samples_of(frame: Any) -> NDArray[np.float32]:
    """The samples of a frame of PyAV, (samples, channels); full scale is ±1."""
    values = frame.to_ndarray()  # (channels, samples), or (1, samples · channels)
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    samples: NDArray[np.float32] = values.astype(np.float32, copy=False)
    if values.dtype == np.uint8:
        samples = (samples - np.float32(128)) / np.float32(128)
    elif values.dtype.kind == "i":
        samples = samples / np.float32(float(np.iinfo(values.dtype).max) + 1)
    return samples


@cache
def mixing_weights(layout: str) -> NDArray[np.float32]:
    """The levels of a layout's channels in mono, by FFmpeg's rules: (channels,). All are equal where it has none."""
    import av

    channels = av.AudioLayout(layout).nb_channels
    impulses = np.eye(channels, dtype=np.float32).reshape(1, -1)  # in each channel, one sample after the other
    frame = av.AudioFrame.from_ndarray(impulses, format="flt", layout=layout)
    frame.sample_rate = rate = 48_000  # Hz; any
    try:
        (mono,) = av.AudioResampler("flt", "mono", rate).resample(frame)
    except av.FFmpegError:
        return np.full(channels, 1 / channels, np.float32)
    weights: NDArray[np.float32] = mono.to_ndarray()[0]
    return weights
