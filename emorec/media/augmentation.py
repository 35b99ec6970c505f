"""Augmented views: how the copies of an utterance that training sees differ from it.

A view's random numbers depend on its number, the segment and the file's content only. So a view is the same wherever
the corpus lies, whichever decoder reads it, and in every process.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Ge, Le
from numpy.random import Generator

from emorec.annotations import Count, NonNegative, Probability
from emorec.config.validation import build
from emorec.media.resizing import Frames, resized
from emorec.media.signal import Waveform, resampled

DRAWS = 2  # increase it whenever views are drawn in another way
END_BYTES = 1 << 16  # how much of a file's start and end goes into the seed
SPEED_STEPS = 100  # speeds are drawn in hundredths, so that the resampling factors are rational
WIDEST_TIME_MASK = 0.2  # largest share of an utterance's frames in one mask: p of SpecAugment's Switchboard policies
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

Decibels = Annotated[float, Ge(-100), Le(100)]
Speed = Annotated[float, Ge(0.5), Le(2)]


def generator_of(view: int, path: Path, segment: tuple[float | None, float | None]) -> Generator:
    """The random generator of a view, seeded by its number, the segment (seconds), the file's length and both ends."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{view} {segment} {size} ".encode())
        for offset in (0, max(0, size - END_BYTES)):
            stream.seek(offset)
            digest.update(stream.read(END_BYTES))
    return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What differs from view to view."""

    @classmethod
    def from_node(cls, node: Mapping[str, Any], path: str, problems: list[str]) -> Self | None:
        """From a mapping of the config, where null stands for a field's default."""
        known = {item.name for item in fields(cls)}
        values = {key: value for key, value in node.items() if value is not None or key not in known}
        return build(cls, values, path, problems)

    @property
    def is_set(self) -> bool:
        """Whether views differ from the source at all."""
        raise NotImplementedError

    @property
    def masks_frames(self) -> bool:
        """Whether frames of a spectrogram are masked."""
        return False

    def identity(self) -> dict[str, Any]:
        """What identifies the features of a view."""
        return {"draws": DRAWS, **{name: value for name, value in asdict(self).items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class AudioAugmentation(Augmentation):
    """How the sound of a view differs: speed is changed first, then noise is added, then gain, then masks.

    The masks are those of SpecAugment (Park et al. 2019, Interspeech), without time warping. A mask holds the
    utterance's mean frame, and covers at most a fifth of its frames.

    Attributes:
        noise_snr: signal-to-noise ratio of added white noise, dB, [lowest, highest].
        gain: dB, [lowest, highest].
        speed: factor of tempo and pitch, [lowest, highest], drawn in hundredths.
        time_masks: number of masked stretches of frames.
        time_mask_seconds: length of the longest stretch.
        frequency_masks: number of masked groups of neighbouring bands.
        frequency_mask_bands: size of the largest group.
    """

    noise_snr: tuple[Decibels, Decibels] | None = None
    gain: tuple[Decibels, Decibels] | None = None
    speed: tuple[Speed, Speed] | None = None
    time_masks: Count = 0
    time_mask_seconds: NonNegative = 0.1
    frequency_masks: Count = 0
    frequency_mask_bands: Count = 8

    def problems(self) -> Iterable[str]:
        for name in ("noise_snr", "gain", "speed"):
            interval = getattr(self, name)
            if interval is not None and interval[0] > interval[1]:
                yield f"{name}: expected [lowest, highest], got {list(interval)}"

    @property
    def is_set(self) -> bool:
        return self.masks_frames or any(item is not None for item in (self.noise_snr, self.gain, self.speed))

    @property
    def masks_frames(self) -> bool:
        return bool(self.time_masks or self.frequency_masks)

    def vary(self, waveform: Waveform, generator: Generator, *, shortest: int = 1) -> Waveform:
        """A view of a waveform (samples,); no sound is sped up to fewer samples than `shortest`.

        Speed is that of Ko et al. (2015), Interspeech: length and pitch change with it.
        """
        if self.speed is not None:
            factor = round(generator.uniform(*self.speed) * SPEED_STEPS)
            if len(waveform) * SPEED_STEPS >= shortest * factor:
                waveform = resampled(waveform, factor, SPEED_STEPS)
        if self.noise_snr is not None:
            waveform = with_noise(waveform, generator.uniform(*self.noise_snr), generator)
        if self.gain is not None:
            waveform = waveform * np.float32(10 ** (generator.uniform(*self.gain) / 20))
        return waveform

    def mask(self, frames: Waveform, generator: Generator, *, hop: float) -> Waveform:
        """A view of a spectrogram (T, bands) whose frames are `hop` seconds apart."""
        longest = min(round(self.time_mask_seconds / hop), int(WIDEST_TIME_MASK * len(frames)))
        largest = min(self.frequency_mask_bands, frames.shape[1])
        masked, mean = frames.copy(), frames.mean(axis=0)  # (T, bands), (bands,)
        for _ in range(self.frequency_masks):
            start, end = _mask_range(generator, largest, frames.shape[1])
            masked[:, start:end] = mean[start:end]
        for _ in range(self.time_masks):
            start, end = _mask_range(generator, longest, len(frames))
            masked[start:end] = mean
        return masked


def _mask_range(generator: Generator, longest: int, length: int) -> tuple[int, int]:
    """Start and end of a mask: its width is drawn from 0 to `longest`, its position from all of `length`."""
    width = int(generator.integers(0, longest + 1))
    start = int(generator.integers(0, length - width + 1))
    return start, start + width


def with_noise(waveform: Waveform, snr: float, generator: Generator) -> Waveform:
    """Adds white Gaussian noise to a waveform (samples,), at a signal-to-noise ratio of exactly `snr` dB."""
    noise = generator.standard_normal(len(waveform))
    power = np.mean(np.square(waveform, dtype=np.float64))
    noise *= np.sqrt(power / np.mean(noise**2) * 10 ** (-snr / 10))
    noisy: Waveform = (waveform + noise).astype(np.float32)
    return noisy


@dataclass(frozen=True, kw_only=True)
class VideoAugmentation(Augmentation):
    """How the frames of a view differ. All frames of a clip change alike, except for those that are dropped.

    Attributes:
        flip: probability of a horizontal flip.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor that differs from 1 by at most
            this much.
        crop: smallest share of the area that is cut out and resized to the frame's size.
        drop_frames: probability that a frame is replaced by the one before.
    """

    flip: Probability = 0.0
    color_jitter: Probability = 0.0
    crop: Annotated[float, Ge(0.05), Le(1)] = 1.0
    drop_frames: Probability = 0.0

    @property
    def is_set(self) -> bool:
        return self.flip > 0 or self.color_jitter > 0 or self.crop < 1 or self.drop_frames > 0

    def vary(self, frames: Frames, generator: Generator) -> Frames:
        """A view of frames (N, H, W, 3)."""
        if self.drop_frames > 0:
            kept = generator.random(len(frames)) >= self.drop_frames
            frames = frames[np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))]
        if self.crop < 1:
            frames = _cropped(frames, generator.uniform(self.crop, 1.0), generator)
        if self.flip > 0 and generator.random() < self.flip:
            frames = frames[:, :, ::-1]
        if self.color_jitter > 0:
            factors = generator.uniform(1 - self.color_jitter, 1 + self.color_jitter, 3)
            frames = with_colors(frames, *(float(factor) for factor in factors))
        return np.ascontiguousarray(frames)


def _cropped(frames: Frames, share: float, generator: Generator) -> Frames:
    """Cuts a random part of the same aspect out of frames (N, H, W, 3), and resizes it to their size."""
    height, width = frames.shape[1:3]
    rows, columns = max(1, round(height * share**0.5)), max(1, round(width * share**0.5))
    top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
    return resized(frames[:, top : top + rows, left : left + columns], (height, width))


def with_colors(frames: Frames, brightness: float, contrast: float, saturation: float) -> Frames:
    """Multiplies brightness, contrast around the clip's mean, and saturation of frames (N, H, W, 3)."""
    pixels = frames.astype(np.float32) * np.float32(brightness)
    mean = (pixels @ LUMINANCE).mean()
    pixels = mean + (pixels - mean) * np.float32(contrast)
    grey = (pixels @ LUMINANCE)[..., None]  # (N, H, W, 1)
    pixels = grey + (pixels - grey) * np.float32(saturation)
    changed: Frames = np.clip(pixels.round(), 0, 255).astype(np.uint8)
    return changed
