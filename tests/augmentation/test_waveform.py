"""Signal-to-noise ratios, colours, gains, speeds and rooms are what the settings say."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.augmentation.waveform import WaveformAugmentation, coloured_noise, convolved, room_response
from tests.augmentation.conftest import RATE, draws

COUNT = 4


def tones(seconds: float = 1.0, pitch: float = 440.0) -> tuple[Tensor, Tensor]:
    """Tones (N, S, 1) as 16-bit numbers, the last one half as long, and their lengths."""
    time = torch.arange(round(seconds * RATE)) / RATE
    sound = (8000 * (2 * math.pi * pitch * time).sin()).repeat(COUNT, 1)
    sound[-1, len(time) // 2 :] = 0
    lengths = torch.full((COUNT,), len(time))
    lengths[-1] //= 2
    return sound[:, :, None].to(torch.int16), lengths


def vary(values: Tensor, lengths: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    varied, counts = WaveformAugmentation(**settings).vary(values, lengths, draws(len(values)), rate=RATE)
    return varied[:, :, 0].double(), counts


def power(sound: Tensor, lengths: Tensor) -> Tensor:
    return sound.double().square().sum(1) / lengths


@pytest.mark.parametrize("noise", ["white", "pink", "both"])
@pytest.mark.parametrize("snr", [-5.0, 10.0, 40.0])
def test_noise_is_mixed_at_its_ratio(noise: str, snr: float) -> None:
    values, lengths = tones()
    noisy, counts = vary(values, lengths, noise_snr=(snr, snr), noise=noise)
    assert torch.equal(counts, lengths)
    added = noisy - values[:, :, 0]
    ratios = 10 * (power(values[:, :, 0], lengths) / power(added, lengths)).log10()
    torch.testing.assert_close(ratios, torch.full_like(ratios, snr), atol=0.01, rtol=0)
    assert not torch.equal(added[0], added[1])


@pytest.mark.parametrize(("is_pink", "slope"), [(True, -3.01), (False, 0.0)])
def test_pink_noise_loses_three_decibels_an_octave_and_white_noise_none(is_pink: bool, slope: float) -> None:
    noise = coloured_noise(draws(40), RATE, is_pink=torch.full((40,), is_pink))
    spectrum = torch.fft.rfft(noise.double()).abs().square().mean(0)  # a bin a Hz
    octaves = [10 * math.log10(float(spectrum[low : 2 * low].mean())) for low in (62, 125, 250, 500, 1000)]
    measured = (octaves[-1] - octaves[0]) / (len(octaves) - 1)
    assert measured == pytest.approx(slope, abs=0.15)


def test_silence_gets_no_noise() -> None:
    noisy, _ = vary(torch.zeros(2, 500, 1, dtype=torch.int16), torch.tensor([500, 300]), noise_snr=(5, 30))
    assert not noisy.any()


def test_gain_is_drawn_from_its_range_of_decibels() -> None:
    values, lengths = tones()
    louder, _ = vary(values, lengths, gain=(3, 3))
    torch.testing.assert_close(louder, values[:, :, 0].double() * 10 ** (3 / 20), atol=1e-2, rtol=1e-5)
    many, all_lengths = values[:1].repeat(300, 1, 1), lengths[:1].repeat(300)
    changed = 10 * (power(vary(many, all_lengths, gain=(-6, 6))[0], all_lengths) / power(many[:, :, 0], all_lengths))
    decibels = 10 * (changed / 10).log10()
    assert -6 <= decibels.min() < -5
    assert 5 < decibels.max() <= 6


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    values, lengths = tones()
    faster, counts = vary(values, lengths, speed=(speed, speed))
    torch.testing.assert_close(counts.double(), lengths.double() / speed, atol=1.0, rtol=0)
    time = torch.arange(int(counts[0])) / RATE
    expected = 8000 * (2 * math.pi * 440 * speed * time.double()).sin()
    torch.testing.assert_close(faster[0, 10 : len(time) - 10], expected[10:-10], atol=40.0, rtol=0)
    if speed == 1:
        assert torch.equal(faster, values[:, :, 0].double())


@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_a_room_decays_by_sixty_decibels_in_its_time(seconds: float) -> None:
    response = room_response(draws(8), torch.full((8,), seconds), longest=RATE, rate=RATE).double()
    assert torch.equal(response[:, 0], torch.ones(8, dtype=torch.float64))
    direct_to_reverberant = -10 * response[:, 1:].square().sum(1).log10()
    torch.testing.assert_close(direct_to_reverberant, torch.full_like(direct_to_reverberant, 5.0), atol=0.01, rtol=0)
    decay = 10 * response[:, 1:].square().flip(1).cumsum(1).flip(1).log10()  # after Schroeder (1965)
    start = decay[:, 0]
    fallen = [(decay < (start - level)[:, None]).double().argmax(1) for level in (5, 35)]
    measured = 2 * (fallen[1] - fallen[0]) / RATE  # from 30 dB to 60
    torch.testing.assert_close(measured, torch.full_like(measured, seconds), atol=0.02, rtol=0.05)


def test_a_room_keeps_power_and_length() -> None:
    values, lengths = tones()
    wet, counts = vary(values, lengths, reverberation=(0.3, 0.6))
    assert torch.equal(counts, lengths)
    torch.testing.assert_close(power(wet, lengths), power(values[:, :, 0], lengths), rtol=1e-3, atol=0)
    assert not torch.equal(wet[0], wet[1])


def test_convolution_equals_that_in_time() -> None:
    sound, kernels = torch.randn(2, 50), torch.randn(2, 9)
    padded = torch.nn.functional.pad(sound, (8, 0))
    expected = torch.nn.functional.conv1d(padded[None], kernels.flip(1)[:, None], groups=2)[0]
    torch.testing.assert_close(convolved(sound, kernels), expected, atol=1e-5, rtol=1e-5)


def test_each_effect_happens_with_its_probability() -> None:
    values, lengths = torch.full((400, 60, 1), 1000, dtype=torch.int16), torch.full((400,), 60)
    for settings in ({"gain": (3, 3)}, {"noise_snr": (5, 5)}, {"reverberation": (0.1, 0.1)}, {"speed": (1.1, 1.1)}):
        varied, counts = vary(values, lengths, probability=0.25, **settings)
        is_changed = (counts != 60) | (varied[:, :54] != 1000).any(1)
        assert 0.17 < float(is_changed.double().mean()) < 0.33, settings
