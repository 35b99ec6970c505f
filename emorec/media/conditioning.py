"""Conditions waveforms: trims silence, compresses the dynamics, sets the loudness, raises high frequencies."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from emorec.media.signal import Waveform, lfilter

TRIM_WINDOW = 0.025  # seconds of a frame of which the energy is measured
TRIM_HOP = 0.010  # seconds between such frames
LEVEL_HOP = 0.001  # seconds between the levels that the compressor measures
QUIETEST = 1e-6  # lower amplitudes are raised to it before they become decibels: -120 dB
# ITU-R BS.1770-4
LOUDNESS_BLOCK = 0.4  # seconds
LOUDNESS_HOP = 0.1  # seconds: blocks overlap by 75 %
LOUDNESS_OFFSET = -0.691  # dB
ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # LU

Filter = tuple[tuple[float, float, float], tuple[float, float, float]]  # numerator, denominator


def trim_silence(waveform: Waveform, sample_rate: int, below: float) -> Waveform:
    """Cuts off what lies before the first and after the last loud frame of a waveform (samples,).

    Endpoints are detected by short-time energy, after Rabiner and Sambur (1975), Bell System Technical Journal 54(2).
    Frames that are more than `below` dB below the loudest one are silence, so at least one frame is always kept.
    """
    window, hop = max(1, round(TRIM_WINDOW * sample_rate)), max(1, round(TRIM_HOP * sample_rate))
    starts = np.arange(0, len(waveform), hop)
    ends = np.minimum(starts + window, len(waveform))
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    frames = energy[ends] - energy[starts]  # sums, so that a shorter frame at the end is not louder than others
    loud = np.flatnonzero(frames >= frames.max() * 10 ** (-below / 10))
    return waveform[starts[loud[0]] : ends[loud[-1]]]


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Settings of a compressor of the dynamics."""

    threshold: Annotated[float, Ge(-100), Le(0)]  # dB of full scale; louder sound is compressed
    ratio: Annotated[float, Ge(1), Le(100)]  # dB at the input, above the threshold, that become one dB at the output
    attack: Annotated[float, Ge(0), Le(1)] = 0.005  # time constant of the gain when the sound becomes louder, seconds
    release: Annotated[float, Ge(0), Le(10)] = 0.05  # time constant of the gain when the sound becomes quieter, seconds


def compress(waveform: Waveform, sample_rate: int, settings: Compression) -> Waveform:
    """Reduces the level of a waveform (samples,), full scale ±1, where it is above the threshold.

    A feed-forward compressor with a hard knee and the smooth decoupled peak detector of Giannoulis, Massberg and Reiss
    (2012), J. Audio Eng. Soc. 60(6), "Digital dynamic range compressor design". Levels are the peaks of milliseconds;
    the gain is interpolated between them. There is no make-up gain.
    """
    hop = max(1, round(LEVEL_HOP * sample_rate))
    starts = np.arange(0, len(waveform), hop)
    peaks = np.maximum.reduceat(np.abs(waveform.astype(np.float64)), starts)
    levels = 20 * np.log10(np.maximum(peaks, QUIETEST))
    wanted = np.maximum(levels - settings.threshold, 0.0) * (1 - 1 / settings.ratio)  # reductions, dB
    rise, fall = (
        math.exp(-hop / (seconds * sample_rate)) if seconds else 0.0 for seconds in (settings.attack, settings.release)
    )
    reductions, held, reduction = np.empty(len(wanted)), 0.0, 0.0
    for index, target in enumerate(wanted.tolist()):
        held = max(target, fall * held + (1 - fall) * target)
        reduction = rise * reduction + (1 - rise) * held
        reductions[index] = reduction
    gain = 10 ** (-np.interp(np.arange(len(waveform)), starts + (hop - 1) / 2, reductions) / 20)
    compressed: Waveform = (waveform * gain).astype(np.float32)
    return compressed


def k_weighting(sample_rate: int) -> tuple[Filter, Filter]:
    """The two filters of ITU-R BS.1770-4 at any rate: a high shelf that models the head, then a high pass.

    The standard gives coefficients for 48 kHz. For other rates the analogue filters behind them are discretised by the
    bilinear transform.
    """
    gain, quality, omega = 3.999843853973347, 0.7071752369554196, math.tan(math.pi * 1681.974450955533 / sample_rate)
    high = 10 ** (gain / 20)
    band = high**0.4996667741545416
    scale = 1 + omega / quality + omega**2
    shelf = (
        (high + band * omega / quality + omega**2) / scale,
        2 * (omega**2 - high) / scale,
        (high - band * omega / quality + omega**2) / scale,
    )
    shelf_poles = (1.0, 2 * (omega**2 - 1) / scale, (1 - omega / quality + omega**2) / scale)
    quality, omega = 0.5003270373238773, math.tan(math.pi * 38.13547087602444 / sample_rate)
    scale = 1 + omega / quality + omega**2
    pass_poles = (1.0, 2 * (omega**2 - 1) / scale, (1 - omega / quality + omega**2) / scale)
    return (shelf, shelf_poles), ((1.0, -2.0, 1.0), pass_poles)


def loudness(waveform: Waveform, sample_rate: int) -> float:
    """Gated loudness of a waveform (samples,), full scale ±1, in LUFS, by ITU-R BS.1770-4 for one channel.

    The standard does not define the loudness of sound shorter than one block of 0.4 s, or without a block above the
    absolute gate of -70 LUFS. Both are measured here without gates, the former as one block.
    """
    weighted = waveform.astype(np.float64)
    for numerator, denominator in k_weighting(sample_rate):
        weighted = lfilter(weighted, numerator, denominator)
    energy = np.concatenate([[0.0], np.cumsum(weighted**2)])
    block, hop = round(LOUDNESS_BLOCK * sample_rate), round(LOUDNESS_HOP * sample_rate)
    if len(waveform) < block:
        return _lufs(energy[-1] / len(waveform))
    starts = np.arange(0, len(waveform) - block + 1, hop)
    powers = (energy[starts + block] - energy[starts]) / block
    audible = powers[powers > 10 ** ((ABSOLUTE_GATE - LOUDNESS_OFFSET) / 10)]
    if len(audible) == 0:
        return _lufs(powers.mean())
    gated = audible[audible > audible.mean() * 10 ** (RELATIVE_GATE / 10)]
    return _lufs(gated.mean())


def _lufs(power: float) -> float:
    return LOUDNESS_OFFSET + 10 * math.log10(power) if power > 0 else -math.inf


def with_loudness(waveform: Waveform, sample_rate: int, target: float) -> Waveform:
    """A waveform (samples,) at a loudness of `target` LUFS; peaks may exceed full scale and are not clipped."""
    measured = loudness(waveform, sample_rate)
    if not math.isfinite(measured):  # silence
        return waveform
    return waveform * np.float32(10 ** ((target - measured) / 20))


def pre_emphasise(waveform: Waveform, coefficient: float) -> Waveform:
    """y[t] = x[t] - coefficient · x[t - 1] of a waveform (samples,), with y[0] = x[0].

    This raises high frequencies by up to 6 dB per octave (Rabiner and Schafer 1978, Digital Processing of Speech
    Signals).
    """
    emphasised = waveform.copy()
    emphasised[1:] -= np.float32(coefficient) * waveform[:-1]
    return emphasised
