"""Resampling, recursive filters and spectrograms.

torchaudio computes them where it can be imported. Its last release, 2.11, does not load beside every later torch. There
the functions of this module compute the same definitions; results differ by at most 1e-4.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

LOBES = 6  # zero crossings of the resampling filter on each side
ROLLOFF = 0.99  # cutoff of the resampling filter, as a share of the lower Nyquist frequency
LARGEST_FILTER = 50_000_000  # values of torchaudio's filter, which has 700 million for 44 101 to 16 000 Hz
LONGEST_AT_ONCE = 1 << 24  # samples that are resampled at once
LOWEST_POWER = 1e-10  # lower powers are raised to it before they become decibels
DYNAMIC_RANGE = 80.0  # decibels below the loudest that cepstral coefficients take into account

Waveform = NDArray[np.float32]
Transform = Callable[["Tensor"], "Tensor"]

log = logging.getLogger(__name__)


@cache
def uses_torchaudio() -> bool:
    """Whether torchaudio can be imported: beside a torch that was built for another CUDA version it raises an error."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        log.info("torchaudio cannot be imported, so emorec processes sound itself: %s", str(error).split("\n")[0])
        return False
    return True


@lru_cache(maxsize=64)
def resampler(rate: int, wanted: int) -> Transform:
    """A function that resamples tensors (samples,) from `rate` to `wanted` Hz, by a sinc with a Hann window."""
    divisor = math.gcd(rate, wanted)
    down, up = rate // divisor, wanted // divisor
    if uses_torchaudio() and down * up <= LARGEST_FILTER:
        return _by_torchaudio("Resample", rate, wanted, lowpass_filter_width=LOBES, rolloff=ROLLOFF)
    return partial(_resample, down=down, up=up)


def resampled(waveform: Waveform, rate: int, wanted: int) -> Waveform:
    """A waveform (samples,) of `rate` Hz at `wanted` Hz; a long one in blocks, as resampling takes several times it."""
    if rate == wanted:
        return waveform
    import torch

    resample, divisor = resampler(rate, wanted), math.gcd(rate, wanted)
    down, up = rate // divisor, wanted // divisor
    block = math.ceil(LONGEST_AT_ONCE / down)  # of `down` samples, which become `up`
    margin = math.ceil((LOBES + 1) * max(1, down / up) / down)  # that the filter reaches beyond a block
    blocks = []
    with torch.inference_mode():
        for start in range(0, max(1, math.ceil(len(waveform) / down)), block):
            before = min(start, margin)
            part = waveform[(start - before) * down : (start + block + margin) * down]
            result = resample(torch.from_numpy(np.ascontiguousarray(part))).numpy()
            blocks.append(result[before * up : (before + block) * up])
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def lfilter(
    waveform: NDArray[np.float64], numerator: Sequence[float], denominator: Sequence[float]
) -> NDArray[np.float64]:
    """A waveform (samples,) after a recursive filter, given by the coefficients of its transfer function."""
    result: NDArray[np.float64]
    if uses_torchaudio():
        import torch
        from torchaudio.functional import lfilter as by_torchaudio

        coefficients = (torch.tensor(item, dtype=torch.float64) for item in (denominator, numerator))
        with torch.inference_mode():
            result = by_torchaudio(torch.from_numpy(waveform), *coefficients, clamp=False).numpy()
    else:
        from scipy.signal import lfilter as by_scipy

        result = by_scipy(numerator, denominator, waveform)
    return result


def spectrogram(*, points: int, window: int, hop: int) -> Transform:
    """A function from sound (samples,) to its power spectrogram (points / 2 + 1, T), with zeros beyond both ends.

    Args:
        points: of the Fourier transform.
        window: samples of the Hann window.
        hop: samples between frames.
    """
    import torch

    if uses_torchaudio():
        return _by_torchaudio("Spectrogram", points, window, hop, pad_mode="constant")
    return partial(_spectrogram, points=points, window=torch.hann_window(window), hop=hop)


def mel_spectrogram(sample_rate: int, *, points: int, window: int, hop: int, bands: int) -> Transform:
    """A function from sound (samples,) to the powers of its mel bands (bands, T); arguments as of `spectrogram`."""
    if uses_torchaudio():
        frames = {"n_fft": points, "win_length": window, "hop_length": hop, "n_mels": bands}
        return _by_torchaudio("MelSpectrogram", sample_rate, **frames, pad_mode="constant")
    filters = mel_filters(sample_rate, points=points, bands=bands)
    return partial(_mel_spectrogram, power=spectrogram(points=points, window=window, hop=hop), filters=filters)


def mfcc(sample_rate: int, *, coefficients: int, points: int, window: int, hop: int, bands: int) -> Transform:
    """A function from sound (samples,) to its cepstral coefficients (coefficients, T).

    They are the orthonormal type-II discrete cosine transform of mel bands in decibels; arguments as of `spectrogram`.
    """
    import torch

    if uses_torchaudio():
        frames = {"n_fft": points, "win_length": window, "hop_length": hop, "n_mels": bands, "pad_mode": "constant"}
        return _by_torchaudio("MFCC", sample_rate, coefficients, melkwargs=frames)
    mel = mel_spectrogram(sample_rate, points=points, window=window, hop=hop, bands=bands)
    angles = math.pi / bands * (torch.arange(bands) + 0.5) * torch.arange(coefficients)[:, None]
    cosines = angles.cos() * math.sqrt(2 / bands)  # (coefficients, bands)
    cosines[0] /= math.sqrt(2)
    return partial(_mfcc, mel=mel, cosines=cosines)


def _by_torchaudio(name: str, *arguments: Any, **options: Any) -> Transform:
    import torchaudio

    transform: Transform = getattr(torchaudio.transforms, name)(*arguments, **options)
    return transform


def mel_filters(sample_rate: int, *, points: int, bands: int) -> "Tensor":
    """Triangles (points / 2 + 1, bands) with their corners evenly spaced on the mel scale of HTK."""
    import torch

    highest = sample_rate // 2  # Hz
    frequencies = torch.linspace(0, highest, points // 2 + 1)[:, None]
    mels = torch.linspace(0, 2595 * math.log10(1 + highest / 700), bands + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)  # (bands + 2,) Hz
    widths = corners.diff()
    rising, falling = (frequencies - corners[:-2]) / widths[:-1], (corners[2:] - frequencies) / widths[1:]
    return torch.minimum(rising, falling).clamp_min(0)


@lru_cache(maxsize=64)
def _sinc_filter(down: int, up: int) -> NDArray[np.float64]:
    """The filter that resamples from a rate of `down` to one of `up`, in samples of `down` · `up`.

    It is symmetric, and its middle is at a multiple of `down`, so that an output sample falls on it.
    """
    cutoff = min(down, up) * ROLLOFF
    middle = math.ceil(LOBES * up / cutoff) * down
    crossings = np.arange(-middle, middle + 1) * cutoff / (down * up)
    window = np.where(np.abs(crossings) < LOBES, np.cos(np.pi * crossings / LOBES / 2) ** 2, 0.0)
    return np.sinc(crossings) * window * cutoff / down


def _resample(waveform: "Tensor", *, down: int, up: int) -> "Tensor":
    import torch
    from scipy.signal import upfirdn

    if down == up:
        return waveform
    kernel = _sinc_filter(down, up)
    start, length = len(kernel) // 2 // down, math.ceil(len(waveform) * up / down)
    samples = upfirdn(kernel, waveform.numpy(), up, down)[start : start + length]
    samples = np.pad(samples, (0, length - len(samples)))
    return torch.from_numpy(samples.astype(np.float32))


def _spectrogram(waveform: "Tensor", *, points: int, window: "Tensor", hop: int) -> "Tensor":
    import torch

    spectrum = torch.stft(waveform, points, hop, len(window), window, pad_mode="constant", return_complex=True)
    return spectrum.abs().square()


def _mel_spectrogram(waveform: "Tensor", *, power: Transform, filters: "Tensor") -> "Tensor":
    return (power(waveform).T @ filters).T


def _mfcc(waveform: "Tensor", *, mel: Transform, cosines: "Tensor") -> "Tensor":
    decibels = 10 * mel(waveform).clamp_min(LOWEST_POWER).log10()
    decibels = decibels.clamp_min(decibels.max() - DYNAMIC_RANGE)  # (bands, T)
    return (decibels.T @ cosines.T).T
