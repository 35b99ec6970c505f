"""What is done to sound, by its values."""

import numpy as np
import pytest

from emorec.cards import sound_changes as sounds
from tests.conftest import tone

RATE = 16_000


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def speech_like(seconds: float = 1.0) -> np.ndarray:
    """Noise between 300 and 2000 Hz that comes and goes."""
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(round(seconds * RATE)))
    frequencies = np.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    spectrum[(frequencies < 300) | (frequencies > 2000)] = 0
    waveform = np.fft.irfft(spectrum, round(seconds * RATE))
    waveform *= 1.2 + np.sin(2 * np.pi * 3 * np.arange(len(waveform)) / RATE)
    return (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)


def decibels(first: np.ndarray, second: np.ndarray) -> float:
    return 10 * np.log10(sounds.power(first) / sounds.power(second))


@pytest.mark.parametrize("level", [20, 10, 5, 0])
def test_noise_and_babble_have_the_ratio_that_is_asked_for(level: int) -> None:
    waveform = speech_like()
    noisy = sounds.white_noise(waveform, RATE, generator(), decibels=level)
    assert decibels(waveform, noisy - waveform) == pytest.approx(level, abs=0.1)
    voices = [(tone(0.4, rate=8000, pitch=pitch), 8000) for pitch in (200.0, 300.0, 450.0)]
    noisy = sounds.babble(waveform, RATE, generator(), voices=voices, decibels=level)
    assert decibels(waveform, noisy - waveform) == pytest.approx(level, abs=0.1)
    assert noisy.dtype == np.float32


def test_silent_noise_changes_nothing() -> None:
    waveform = speech_like()
    silent = [(np.zeros(100, np.float32), RATE)]
    assert np.array_equal(sounds.babble(waveform, RATE, generator(), voices=silent, decibels=0), waveform)
    assert np.array_equal(sounds.babble(waveform, RATE, generator(), voices=[], decibels=0), waveform)


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_a_room_decays_by_sixty_decibels_in_its_reverberation_time(seconds: float) -> None:
    response = sounds.impulse_response(RATE, generator(), seconds=seconds).astype(float)
    assert response[0] ** 2 == pytest.approx(np.sum(response[1:] ** 2), rel=1e-3)
    energy = np.cumsum(response[:0:-1] ** 2)[::-1]  # Schroeder's integral, from the first reflection on
    curve = 10 * np.log10(energy / energy[0])
    start, end = (int(np.argmax(curve < level)) for level in (-5, -35))
    assert 2 * (end - start) / RATE == pytest.approx(seconds, rel=0.1)  # T30
    waveform = speech_like()
    wet = sounds.reverberation(waveform, RATE, generator(), seconds=seconds)
    assert len(wet) == len(waveform)
    assert decibels(wet, waveform) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("pitch", "least", "most"), [(100.0, -200, -30), (1000.0, -0.5, 0.5), (5000.0, -200, -30)])
def test_a_telephone_passes_its_band(pitch: float, least: float, most: float) -> None:
    waveform = tone(1.0, pitch=pitch)
    level = decibels(sounds.telephone(waveform, RATE, generator())[2000:-2000], waveform[2000:-2000])
    assert least <= level <= most


def test_mu_law_keeps_a_ratio_of_some_38_decibels() -> None:
    waveform = tone(1.0, rate=8000)
    coded = sounds.mu_law(waveform, 8000, generator())
    assert decibels(waveform, coded - waveform) == pytest.approx(38, abs=1.5)  # known of G.711
    assert len(np.unique(np.round(coded, 6))) <= 256


@pytest.mark.parametrize("name", sounds.CODECS)
def test_codecs_change_sound_a_little_and_do_not_shift_it(name: str) -> None:
    if not sounds.has_codec(name):
        pytest.skip(f"this PyAV cannot encode by {name}")
    waveform = speech_like(1.3)
    coded = sounds.codec(waveform, RATE, generator(), name=name)
    assert coded.shape == waveform.shape
    assert coded.dtype == np.float32
    assert 0.85 < np.corrcoef(waveform, coded)[0, 1] < 1 - 1e-6
    delayed = [np.corrcoef(waveform[40:-40], np.roll(coded, shift)[40:-40])[0, 1] for shift in range(-20, 21)]
    assert int(np.argmax(delayed)) == 20


def test_clipping_cuts_the_share_that_is_asked_for() -> None:
    waveform = speech_like()
    clipped = sounds.clipping(waveform, RATE, generator(), share=0.1)
    assert np.mean(np.abs(waveform) > np.abs(clipped).max()) == pytest.approx(0.1, abs=1e-3)
    quiet = np.abs(waveform) < np.abs(clipped).max()
    assert np.array_equal(clipped[quiet], waveform[quiet])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_lost_packets_are_silent_and_the_others_untouched(share: float) -> None:
    waveform = tone(2.0) + np.float32(0.5)
    changed = sounds.packet_loss(waveform, RATE, generator(), share=share)
    packets = changed.reshape(100, 320)
    lost = (packets == 0).all(1)
    assert lost.sum() == round(100 * share)
    assert np.array_equal(packets[~lost], waveform.reshape(100, 320)[~lost])


def test_gain_is_in_decibels_and_stays_in_scale() -> None:
    waveform = speech_like()
    assert decibels(sounds.gain(waveform, RATE, generator(), decibels=-10), waveform) == pytest.approx(-10, abs=0.01)
    assert np.abs(sounds.gain(waveform, RATE, generator(), decibels=10)).max() == 1
