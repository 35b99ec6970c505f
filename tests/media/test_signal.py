"""emorec's own signal functions agree with torchaudio, and both agree with the definitions."""

import builtins
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emorec.media import signal
from emorec.media.conditioning import k_weighting
from tests.conftest import tone

LENGTHS = (1, 2, 7, 160, 399, 400, 401, 1024, 16_000, 33_333)
RATES = (4_000, 8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000)
SPEEDS = (50, 81, 90, 99, 101, 110, 125, 200)

with_torchaudio = pytest.mark.skipif(not signal.uses_torchaudio(), reason="torchaudio cannot be imported")


def sound(samples: int, seed: int = 0) -> Tensor:
    """Noise under a rising envelope, with a tone."""
    noise = np.random.default_rng(seed).normal(0, 0.1, samples) * np.linspace(0.1, 1, samples)
    return torch.from_numpy((noise + 0.3 * np.sin(np.arange(samples) * 0.2)).astype(np.float32))


@pytest.fixture(autouse=True)
def no_cached_resamplers() -> Iterator[None]:
    signal.resampler.cache_clear()
    yield
    signal.resampler.cache_clear()


def both(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """What a function of `signal` returns with torchaudio, and without it."""
    results = []
    for choice in (True, False):
        monkeypatch.setattr(signal, "uses_torchaudio", lambda choice=choice: choice)
        signal.resampler.cache_clear()
        results.append(getattr(signal, name)(*arguments, **options))
    assert type(results[0]) is not type(results[1]) or isinstance(results[0], np.ndarray)
    return results[0], results[1]


def assert_close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> None:
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=tolerance)


@with_torchaudio
@pytest.mark.parametrize("wanted", [8_000, 16_000, 22_050])
@pytest.mark.parametrize("rate", RATES)
def test_resampling_agrees_with_torchaudio(monkeypatch: pytest.MonkeyPatch, rate: int, wanted: int) -> None:
    one, other = both(monkeypatch, "resampler", rate, wanted)
    for samples in LENGTHS:
        assert_close(one(sound(samples)), other(sound(samples)), 1e-5)


@pytest.mark.parametrize("rate", [48_000, 44_100, 8_000, 44_101])
def test_long_sound_is_resampled_in_blocks_without_seams(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    waveform = sound(99_991).numpy()
    whole = signal.resampled(waveform, rate, 16_000)
    monkeypatch.setattr(signal, "LONGEST_AT_ONCE", 20_000)
    np.testing.assert_allclose(signal.resampled(waveform, rate, 16_000), whole, rtol=0, atol=1e-6)


@with_torchaudio
def test_rates_for_which_torchaudio_makes_a_filter_of_gigabytes_are_resampled_without_it() -> None:
    resample = signal.resampler(44_101, 16_000)
    assert getattr(resample, "func", None) is signal._resample
    rising = np.sin(2 * np.pi * 220 * np.arange(44_101) / 44_101).astype(np.float32)
    expected = np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(resample(torch.from_numpy(rising))[100:-100], expected[100:-100], atol=1e-3)


@with_torchaudio
@pytest.mark.parametrize("speed", SPEEDS)
def test_speeds_agree_with_torchaudio(monkeypatch: pytest.MonkeyPatch, speed: int) -> None:
    one, other = both(monkeypatch, "resampler", speed, 100)
    for samples in LENGTHS:
        assert_close(one(sound(samples)), other(sound(samples)), 1e-5)


@with_torchaudio
@pytest.mark.parametrize("rate", RATES)
def test_filters_agree_with_torchaudio(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    for coefficients in k_weighting(rate):
        for samples in LENGTHS:
            waveform = sound(samples).numpy().astype(np.float64)
            one, other = both(monkeypatch, "lfilter", waveform, *coefficients)
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


FRAMES = ({"points": 400, "window": 400, "hop": 160}, {"points": 1024, "window": 551, "hop": 220})


@with_torchaudio
@pytest.mark.parametrize("frames", FRAMES)
def test_spectrograms_agree_with_torchaudio(monkeypatch: pytest.MonkeyPatch, frames: dict[str, int]) -> None:
    one, other = both(monkeypatch, "spectrogram", **frames)
    for samples in LENGTHS:
        assert_close(one(sound(samples)), other(sound(samples)))


@with_torchaudio
@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("bands", [20, 40, 64])
@pytest.mark.parametrize("rate", RATES)
def test_mel_bands_agree_with_torchaudio(
    monkeypatch: pytest.MonkeyPatch, rate: int, bands: int, frames: dict[str, int]
) -> None:
    one, other = both(monkeypatch, "mel_spectrogram", rate, bands=bands, **frames)
    for samples in LENGTHS:
        first, second = one(sound(samples)), other(sound(samples))
        assert_close(first, second)
        assert_close(first.clamp_min(1e-6).log(), second.clamp_min(1e-6).log())


@with_torchaudio
@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("rate", RATES)
def test_cepstral_coefficients_agree_with_torchaudio(
    monkeypatch: pytest.MonkeyPatch, rate: int, frames: dict[str, int]
) -> None:
    one, other = both(monkeypatch, "mfcc", rate, coefficients=20, bands=40, **frames)
    for samples in LENGTHS:
        assert_close(one(sound(samples)), other(sound(samples)))
        assert_close(one(torch.zeros(samples)), other(torch.zeros(samples)))


@pytest.fixture(params=[True, False], ids=["torchaudio", "own"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Either way of computing, for tests against what is known."""
    if request.param and not signal.uses_torchaudio():
        pytest.skip("torchaudio cannot be imported")
    monkeypatch.setattr(signal, "uses_torchaudio", lambda: request.param)
    return bool(request.param)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (8_000, 16_000), (22_050, 16_000), (101, 100)])
def test_a_tone_is_the_same_tone_at_another_rate(rate: int, wanted: int) -> None:
    pitch = 0.03 * rate
    result = signal.resampled(tone(8000 / rate, rate=rate, pitch=pitch), rate, wanted)
    assert result.dtype == np.float32
    assert len(result) == -(-8000 * wanted // rate)
    expected = tone(len(result) / wanted, rate=wanted, pitch=pitch)
    quarter = len(result) // 4  # both ends are filtered with the silence around the sound
    np.testing.assert_allclose(result[quarter:-quarter], expected[quarter:-quarter], atol=2e-3)


@pytest.mark.usefixtures("backend")
def test_the_same_rate_changes_nothing() -> None:
    waveform = tone(0.5)
    assert signal.resampled(waveform, 16_000, 16_000) is waveform


@pytest.mark.usefixtures("backend")
def test_a_filter_is_its_difference_equation() -> None:
    waveform = sound(50).numpy().astype(np.float64)
    expected = np.zeros(50)
    for index, value in enumerate(waveform):
        before = (expected[index - 1], waveform[index - 1]) if index else (0.0, 0.0)
        expected[index] = 0.5 * value + 0.2 * before[1] - 0.9 * before[0]
    np.testing.assert_allclose(signal.lfilter(waveform, (0.5, 0.2), (1.0, 0.9)), expected, atol=1e-12)


@pytest.mark.usefixtures("backend")
def test_a_frame_of_a_spectrogram_is_the_power_of_its_windowed_samples() -> None:
    waveform = sound(2000)
    frames = signal.spectrogram(points=512, window=512, hop=128)(waveform)
    assert frames.shape == (257, 1 + 2000 // 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    expected = np.abs(np.fft.rfft(waveform[512 - 256 : 512 + 256].numpy() * window)) ** 2
    np.testing.assert_allclose(frames[:, 4], expected, atol=1e-3)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("pitch", [200.0, 1000.0, 4000.0])
def test_a_tone_is_strongest_in_the_band_around_it(pitch: float) -> None:
    bands = signal.mel_spectrogram(16_000, points=1024, window=1024, hop=160, bands=40)(
        torch.from_numpy(tone(1.0, pitch=pitch))
    )
    mel = 2595 * np.log10(1 + pitch / 700)
    position = mel / (2595 * np.log10(1 + 8000 / 700)) * 41 - 1
    assert abs(int(bands[:, 50].argmax()) - position) <= 0.6


@pytest.mark.usefixtures("backend")
def test_cepstral_coefficients_of_all_bands_keep_the_energy_of_the_decibels() -> None:
    frames: Any = {"points": 512, "window": 400, "hop": 160, "bands": 32}
    waveform = sound(8000)
    decibels = 10 * signal.mel_spectrogram(16_000, **frames)(waveform).log10()
    coefficients = signal.mfcc(16_000, coefficients=32, **frames)(waveform)
    assert coefficients.shape == decibels.shape
    np.testing.assert_allclose(coefficients.square().sum(0), decibels.square().sum(0), rtol=1e-4)
    np.testing.assert_allclose(coefficients[0], decibels.sum(0) / 32**0.5, rtol=1e-4)


def test_transforms_without_torchaudio_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "uses_torchaudio", lambda: False)
    frames: Any = {"points": 512, "window": 400, "hop": 160}
    for transform in (
        signal.resampler(44_100, 16_000),
        signal.spectrogram(**frames),
        signal.mel_spectrogram(16_000, bands=40, **frames),
        signal.mfcc(16_000, bands=40, coefficients=20, **frames),
    ):
        assert_close(pickle.loads(pickle.dumps(transform))(sound(4000)), transform(sound(4000)), 0)


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_torchaudio_that_cannot_be_imported_is_not_used(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "torchaudio":
            raise error("built for another torch")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    signal.uses_torchaudio.cache_clear()
    try:
        assert not signal.uses_torchaudio()
        assert len(signal.resampled(tone(0.1, rate=8_000), 8_000, 16_000)) == 1600
    finally:
        signal.uses_torchaudio.cache_clear()
