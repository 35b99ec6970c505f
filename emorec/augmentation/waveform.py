"""Augmentation of sound."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from emorec.annotations import Probability
from emorec.augmentation.spans import length_mask
from emorec.augmentation.streams import Stream
from emorec.draws import between, chance, white_noise

SPEED_STEPS = 1000  # speeds are multiples of a thousandth, so that positions are exact
PINK_TAPS = 2048  # of the filter that makes noise pink: down to 8 Hz at 16 kHz
DIRECT_TO_REVERBERANT = 5.0  # dB: some two metres from the speaker
DECAY = -3.0  # powers of ten of an amplitude in the reverberation time: 60 dB
BLOCK = 4096  # lengths of Fourier transforms are multiples of it
QUIETEST = 1e-12  # power that a division needs

Decibels = Annotated[float, Ge(-100), Le(100)]
Speed = Annotated[float, Ge(0.5), Le(2)]
Seconds = Annotated[float, Ge(0.02), Le(5)]


@dataclass(frozen=True, kw_only=True)
class WaveformAugmentation:
    """Speed is changed first, then a room is added, then noise, then gain.

    Attributes:
        speed: factor of tempo and pitch, [lowest, highest] (Ko et al. 2015, Interspeech).
        reverberation: seconds in which the room's sound decays by 60 dB, [lowest, highest].
        noise_snr: signal-to-noise ratio of added noise, dB, [lowest, highest].
        noise: "white", "pink" (equal power in each octave), or "both", of which one is drawn.
        gain: dB, [lowest, highest].
        probability: of each of these for an utterance.
    """

    speed: tuple[Speed, Speed] | None = None
    reverberation: tuple[Seconds, Seconds] | None = None
    noise_snr: tuple[Decibels, Decibels] | None = None
    noise: Literal["white", "pink", "both"] = "both"
    gain: tuple[Decibels, Decibels] | None = None
    probability: Probability = 1.0

    def problems(self) -> Iterable[str]:
        for name in ("speed", "reverberation", "noise_snr", "gain"):
            interval = getattr(self, name)
            if interval is not None and interval[0] > interval[1]:
                yield f"{name}: expected [lowest, highest], got {list(interval)}"

    def vary(self, values: Tensor, lengths: Tensor, draw: Tensor, *, rate: int) -> tuple[Tensor, Tensor]:
        """Sound (N, S, 1) of `lengths` (N,), as float32, and its new lengths; zero after the end.

        Args:
            draw: (N,) int64, from which all is drawn.
            rate: Hz.
        """
        sound = values[:, :, 0].float()
        if self.speed is not None:
            sound, lengths = self._sped(sound, lengths, draw)
        if self.reverberation is not None:
            seconds = between(draw, self.reverberation, stream=Stream.REVERBERATION)
            response = room_response(draw, seconds, longest=round(self.reverberation[1] * rate), rate=rate)
            chosen = chance(draw, self.probability, stream=Stream.REVERBERATION_CHOICE)
            sound = with_reverberation(sound, lengths, response).where(chosen[:, None], sound)
        if self.noise_snr is not None:
            level = between(draw, self.noise_snr, stream=Stream.NOISE_LEVEL)
            chosen = chance(draw, self.probability, stream=Stream.NOISE_CHOICE)
            sound = with_noise(sound, lengths, self._noise(draw, sound.shape[1]), level).where(chosen[:, None], sound)
        if self.gain is not None:
            factor = 10 ** (between(draw, self.gain, stream=Stream.GAIN) / 20)
            chosen = chance(draw, self.probability, stream=Stream.GAIN_CHOICE)
            sound = sound * factor.where(chosen, 1)[:, None]
        return sound[:, :, None], lengths

    def _sped(self, sound: Tensor, lengths: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        assert self.speed is not None
        steps = (between(draw, self.speed, stream=Stream.SPEED) * SPEED_STEPS).round().long()
        chosen = chance(draw, self.probability, stream=Stream.SPEED_CHOICE)
        return with_speed(sound, lengths, steps.where(chosen, SPEED_STEPS))

    def _noise(self, draw: Tensor, count: int) -> Tensor:
        if self.noise == "white":
            return white_noise(draw, count, stream=Stream.NOISE)
        pink_share = 1.0 if self.noise == "pink" else 0.5
        return coloured_noise(draw, count, is_pink=chance(draw, pink_share, stream=Stream.NOISE_COLOUR))


def with_speed(sound: Tensor, lengths: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Sound (N, S) read `steps` (N,) thousandths as fast, by cubic convolution (Keys 1981), and its new lengths (N,).

    No filter precedes it: for speeds up to some 1.1 what is mirrored lies near half the rate.
    """
    counts = torch.div((lengths - 1) * SPEED_STEPS, steps, rounding_mode="floor") + 1
    longest = int(counts.max())
    scaled = torch.arange(longest, device=sound.device) * steps[:, None]  # (N, S')
    whole = torch.div(scaled, SPEED_STEPS, rounding_mode="floor")
    part = (scaled - whole * SPEED_STEPS).float() / SPEED_STEPS
    square, cube = part.square(), part**3
    weights = (
        -0.5 * cube + square - 0.5 * part,
        1.5 * cube - 2.5 * square + 1,
        -1.5 * cube + 2 * square + 0.5 * part,
        0.5 * cube - 0.5 * square,
    )
    neighbours = torch.nn.functional.pad(sound, (1, 2)).unfold(1, sound.shape[1], 1)  # (N, 4, S), from one before on
    whole = whole.clamp_max(sound.shape[1] - 1)
    read = torch.zeros_like(part)
    for number, weight in enumerate(weights):
        read = read + weight * neighbours[:, number].gather(1, whole)
    return read.where(length_mask(counts, longest), 0), counts


def convolved(sound: Tensor, kernels: Tensor) -> Tensor:
    """Sound (N, S) convolved with kernels (N, K): its first S samples, by Fourier transforms."""
    length = sound.shape[1]
    points = -(-(length + kernels.shape[1] - 1) // BLOCK) * BLOCK
    spectrum = torch.fft.rfft(sound, points) * torch.fft.rfft(kernels, points)
    samples: Tensor = torch.fft.irfft(spectrum, points)
    return samples[:, :length]


def room_response(draw: Tensor, seconds: Tensor, *, longest: int, rate: int) -> Tensor:
    """Impulse responses (N, longest): the direct sound, then noise that decays by 60 dB in `seconds` (N,).

    After Moorer (1979), "About this reverberation business".
    """
    times = torch.arange(1, longest, device=draw.device) / rate
    tail = white_noise(draw, longest - 1, stream=Stream.ROOM) * 10 ** (DECAY * times / seconds[:, None])
    energy = tail.square().sum(1, keepdim=True).clamp_min(QUIETEST)
    tail = tail * (10 ** (-DIRECT_TO_REVERBERANT / 10) / energy).sqrt()
    return torch.nn.functional.pad(tail, (1, 0), value=1.0)


def power_of(sound: Tensor, lengths: Tensor) -> Tensor:
    """(N, 1) mean square of sound (N, S), which is zero after `lengths` (N,)."""
    return sound.square().sum(1, keepdim=True) / lengths[:, None]


def with_reverberation(sound: Tensor, lengths: Tensor, response: Tensor) -> Tensor:
    """Sound (N, S) in rooms of impulse responses (N, K), at its own power and length."""
    wet = convolved(sound, response).where(length_mask(lengths, sound.shape[1]), 0)
    return wet * (power_of(sound, lengths) / power_of(wet, lengths).clamp_min(QUIETEST)).sqrt()


def with_noise(sound: Tensor, lengths: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Sound (N, S) with noise (N, S), at signal-to-noise ratios of exactly `snr` (N,) dB."""
    noise = noise.where(length_mask(lengths, sound.shape[1]), 0)
    wanted = power_of(sound, lengths) * 10 ** (-snr / 10)[:, None]
    return sound + noise * (wanted / power_of(noise, lengths).clamp_min(QUIETEST)).sqrt()


@lru_cache(maxsize=1)
def _pink_filter() -> Tensor:
    """(K,) the filter of noise whose power falls by 3 dB an octave (Kasdin 1995, doi 10.1109/5.381848)."""
    order = torch.arange(1, PINK_TAPS, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), ((order - 0.5) / order).cumprod(0)]).float()


def coloured_noise(draw: Tensor, count: int, *, is_pink: Tensor) -> Tensor:
    """(N, count) noise that is pink where `is_pink` (N,), else white."""
    pink = _pink_filter().to(draw.device)
    white = torch.zeros_like(pink)
    white[0] = 1
    before = PINK_TAPS - 1  # samples that the filter reads before the first
    noise = convolved(white_noise(draw, count + before, stream=Stream.NOISE), pink.where(is_pink[:, None], white))
    return noise[:, before:]
