"""Augmented views: how training's copies of an utterance differ from it.

What is random in a view comes from its number, the segment and the file's content alone, so that a view is the same
wherever the corpus lies, whichever decoder reads it, and whoever computes it when.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from emorec.media.fields import Interval, checked_count, checked_interval, checked_keys, checked_number
from emorec.media.resizing import resized

DRAWS = 2  # counts up whenever views are drawn otherwise
END_BYTES = 1 << 16  # of a file's either end that tell it from others
SPEED_STEPS = 100  # speeds are drawn in hundredths, which makes the resampling's factors rational
# The widest share of an utterance's frames that one mask covers: p of SpecAugment's policies for conversations.
WIDEST_TIME_MASK = 0.2
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

Waveform = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def generator_of(view: int, path: Path, segment: tuple[float | None, float | None]) -> Generator:
    """The source of what is random in a view: seeded by its number, the segment (seconds), and the file's length and
    both its ends."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{view} {segment} {size} ".encode())
        for place in (0, max(0, size - END_BYTES)):
            stream.seek(place)
            digest.update(stream.read(END_BYTES))
    return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What varies from view to view; each field is null or 0 where it does not."""

    @classmethod
    def of(cls, given: Any, where: str) -> Self | None:
        """From a config's node, `where` in the config; `None` for null.

        Raises:
            UserError: there is no such key, or a value does not fit its key.
        """
        if given is None:
            return None
        known = [item.name for item in fields(cls)]
        kept = {key: value for key, value in checked_keys(given, known, where).items() if value is not None}
        return cls(**cls._checked(kept, where))

    @classmethod
    def _checked(cls, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def is_set(self) -> bool:
        """Whether anything varies at all."""
        raise NotImplementedError

    @property
    def masks_frames(self) -> bool:
        """Whether frames of a spectrogram are masked."""
        return False

    def identity(self) -> dict[str, Any]:
        """What counts of it in the identity of a view's features."""
        return {"draws": DRAWS, **{name: value for name, value in asdict(self).items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class AudioAugmentation(Augmentation):
    """How the sound of a view differs; speed first, then noise, then gain, then masks.

    Masks are those of SpecAugment (Park et al. 2019, Interspeech) without its time warping; a mask holds the mean frame
    of the utterance, and covers at most a fifth of its frames.

    Attributes:
        noise_snr: dB between the sound and white noise that is added, [lowest, highest].
        gain: dB, [lowest, highest].
        speed: factor of tempo and pitch, [lowest, highest], drawn in hundredths.
        time_masks: how many stretches of frames are masked.
        time_mask_seconds: of the longest stretch.
        frequency_masks: how many groups of neighbouring bands are masked.
        frequency_mask_bands: of the largest group.
    """

    noise_snr: Interval | None = None
    gain: Interval | None = None
    speed: Interval | None = None
    time_masks: int = 0
    time_mask_seconds: float = 0.1
    frequency_masks: int = 0
    frequency_mask_bands: int = 8

    @classmethod
    def _checked(cls, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in given.items():
            place = f"{where}.{key}"
            if key == "speed":
                found[key] = checked_interval(value, place, low=0.5, high=2.0)
            elif key in ("noise_snr", "gain"):
                found[key] = checked_interval(value, place, low=-100.0, high=100.0)
            elif key == "time_mask_seconds":
                found[key] = checked_number(value, place, low=0.0)
            else:
                found[key] = checked_count(value, place)
        return found

    @property
    def is_set(self) -> bool:
        return self.masks_frames or any(item is not None for item in (self.noise_snr, self.gain, self.speed))

    @property
    def masks_frames(self) -> bool:
        return bool(self.time_masks or self.frequency_masks)

    def vary(self, waveform: Waveform, generator: Generator, *, shortest: int = 1) -> Waveform:
        """A view of a waveform (samples,).

        Args:
            waveform: (samples,).
            generator: of the view.
            shortest: samples below which no sound is sped up.
        """
        if self.speed is not None:
            factor = round(generator.uniform(*self.speed) * SPEED_STEPS)
            if len(waveform) * SPEED_STEPS >= shortest * factor:
                waveform = at_speed(waveform, factor)
        if self.noise_snr is not None:
            waveform = with_noise(waveform, generator.uniform(*self.noise_snr), generator)
        if self.gain is not None:
            waveform = waveform * np.float32(10 ** (generator.uniform(*self.gain) / 20))
        return waveform

    def mask(self, frames: Waveform, generator: Generator, *, hop: float) -> Waveform:
        """A view of a spectrogram.

        Args:
            frames: (T, bands).
            generator: of the view.
            hop: seconds between frames.
        """
        longest = min(round(self.time_mask_seconds / hop), int(WIDEST_TIME_MASK * len(frames)))
        largest = min(self.frequency_mask_bands, frames.shape[1])
        masked, mean = frames.copy(), frames.mean(axis=0)  # (T, bands), (bands,)
        for _ in range(self.frequency_masks):
            first, last = _stretch(generator, largest, frames.shape[1])
            masked[:, first:last] = mean[first:last]
        for _ in range(self.time_masks):
            first, last = _stretch(generator, longest, len(frames))
            masked[first:last] = mean
        return masked


def _stretch(generator: Generator, longest: int, length: int) -> tuple[int, int]:
    """Where a mask starts and ends: as wide as drawn from 0 to `longest`, anywhere in `length`."""
    width = int(generator.integers(0, longest + 1))
    first = int(generator.integers(0, length - width + 1))
    return first, first + width


@lru_cache(maxsize=64)
def _speed_resampler(factor: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(factor, SPEED_STEPS)


def at_speed(waveform: Waveform, factor: int) -> Waveform:
    """Plays a waveform (samples,) at a speed of `factor` hundredths: its length shrinks and its pitch rises by it.

    Speed perturbation after Ko et al. (2015), Interspeech.
    """
    if factor == SPEED_STEPS:
        return waveform
    import torch

    with torch.inference_mode():
        changed: Waveform = _speed_resampler(factor)(torch.from_numpy(np.ascontiguousarray(waveform))).numpy()
    return changed


def with_noise(waveform: Waveform, snr: float, generator: Generator) -> Waveform:
    """Adds white Gaussian noise to a waveform (samples,), at a signal-to-noise ratio of exactly `snr` dB."""
    noise = generator.standard_normal(len(waveform))
    power = np.mean(np.square(waveform, dtype=np.float64))
    noise *= np.sqrt(power / np.mean(noise**2) * 10 ** (-snr / 10))
    noisy: Waveform = (waveform + noise).astype(np.float32)
    return noisy


@dataclass(frozen=True, kw_only=True)
class VideoAugmentation(Augmentation):
    """How the pictures of a view differ: the same in each frame of a clip, but for frames that are dropped.

    Attributes:
        flip: probability that left and right are exchanged.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor of at most this much more or
            less than 1.
        crop: least share of the area that is cut out and resized to the picture's size.
        drop_frames: probability that a frame is replaced by the one before.
    """

    flip: float = 0.0
    color_jitter: float = 0.0
    crop: float = 1.0
    drop_frames: float = 0.0

    @classmethod
    def _checked(cls, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        lowest = {"crop": 0.05}
        return {
            key: checked_number(value, f"{where}.{key}", low=lowest.get(key, 0.0), high=1.0)
            for key, value in given.items()
        }

    @property
    def is_set(self) -> bool:
        return self.flip > 0 or self.color_jitter > 0 or self.crop < 1 or self.drop_frames > 0

    def vary(self, frames: Pixels, generator: Generator) -> Pixels:
        """A view of frames (N, H, W, 3)."""
        if self.drop_frames > 0:
            frames = frames[_kept(generator.random(len(frames)) >= self.drop_frames)]
        if self.crop < 1:
            frames = _cropped(frames, generator.uniform(self.crop, 1.0), generator)
        if self.flip > 0 and generator.random() < self.flip:
            frames = frames[:, :, ::-1]
        if self.color_jitter > 0:
            factors = generator.uniform(1 - self.color_jitter, 1 + self.color_jitter, 3)
            frames = with_colors(frames, *(float(factor) for factor in factors))
        return np.ascontiguousarray(frames)


def _kept(keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) the number of the frame that is shown in each place: its own, or the last one before that is kept."""
    places = np.where(keep, np.arange(len(keep)), 0)
    shown: NDArray[np.int64] = np.maximum.accumulate(places)
    return shown


def _cropped(frames: Pixels, share: float, generator: Generator) -> Pixels:
    """Cuts a part of the same aspect out of frames (N, H, W, 3), anywhere, and resizes it to their size."""
    height, width = frames.shape[1:3]
    rows, columns = max(1, round(height * share**0.5)), max(1, round(width * share**0.5))
    top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
    return resized(frames[:, top : top + rows, left : left + columns], (height, width))


def with_colors(frames: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Multiplies brightness, contrast around the clip's mean, and saturation of frames (N, H, W, 3)."""
    pixels = frames.astype(np.float32) * np.float32(brightness)
    mean = (pixels @ LUMINANCE).mean()
    pixels = mean + (pixels - mean) * np.float32(contrast)
    grey = (pixels @ LUMINANCE)[..., None]  # (N, H, W, 1)
    pixels = grey + (pixels - grey) * np.float32(saturation)
    changed: Pixels = np.clip(pixels.round(), 0, 255).astype(np.uint8)
    return changed
