"""Trimming, compression, loudness and pre-emphasis, against definitions, published numbers and FFmpeg's own meter."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.config.validation import validated
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.conditioning import (
    Compression,
    compress,
    k_weighting,
    loudness,
    pre_emphasise,
    trim_silence,
    with_loudness,
)
from emorec.media.source import MediaError, Source
from tests.conftest import tone

Sound = NDArray[np.float32]
Write = Callable[..., Path]


def read(path: Path, **settings: Any) -> Sound:
    return read_audio(Source(modality="audio", path=path), validated(AudioSettings, settings))


def syllables(seconds: float = 4.0, rate: int = 48_000, seed: int = 0) -> Sound:
    """Noise in loud, soft and nearly silent stretches."""
    generator = np.random.default_rng(seed)
    steps = generator.choice([0.0001, 0.01, 0.05, 0.3], size=math.ceil(seconds * 5))
    shape = np.repeat(steps, rate // 5)[: round(seconds * rate)]
    return (shape * generator.standard_normal(len(shape))).astype(np.float32)


def meter_of_ffmpeg(sound: Sound, rate: int) -> float:
    """Integrated loudness by FFmpeg's ebur128, LUFS to three decimals."""
    graph = av.filter.Graph()
    given = graph.add_abuffer(sample_rate=rate, format="flt", layout="mono", time_base=Fraction(1, rate))
    meter, sink = graph.add("ebur128", "metadata=1:framelog=quiet"), graph.add("abuffersink")
    given.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    for start in range(0, len(sound), 4800):
        frame = av.AudioFrame.from_ndarray(sound[None, start : start + 4800], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        graph.push(frame)
    graph.push(None)
    measured = math.nan
    try:
        while True:
            measured = float(graph.pull().metadata["lavfi.r128.I"])
    except (av.FFmpegError, EOFError):
        return measured


def test_the_filters_at_48_khz_are_those_of_the_standard() -> None:
    """ITU-R BS.1770-4, tables 1 and 2."""
    (shelf, shelf_poles), (high_pass, high_pass_poles) = k_weighting(48_000)
    np.testing.assert_allclose(shelf, (1.53512485958697, -2.69169618940638, 1.19839281085285), atol=1e-9)
    np.testing.assert_allclose(shelf_poles, (1.0, -1.69065929318241, 0.73248077421585), atol=1e-9)
    np.testing.assert_allclose(high_pass, (1.0, -2.0, 1.0))
    np.testing.assert_allclose(high_pass_poles, (1.0, -1.99004745483398, 0.99007225036621), atol=1e-9)


@pytest.mark.parametrize("level", [1.0, 0.1, 0.01])
@pytest.mark.parametrize(("rate", "tolerance"), [(48_000, 0.005), (44_100, 0.01), (16_000, 0.05), (8_000, 0.05)])
def test_a_full_scale_sine_of_997_hz_has_minus_3_01_lufs(rate: int, tolerance: float, level: float) -> None:
    sound = tone(4.0, rate=rate, pitch=997.0, level=level)
    assert loudness(sound, rate) == pytest.approx(-3.01 + 20 * math.log10(level), abs=tolerance)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
def test_the_loudness_is_that_of_ffmpegs_meter(rate: int, seed: int) -> None:
    sound = syllables(6.0, rate, seed)
    assert loudness(sound, rate) == pytest.approx(meter_of_ffmpeg(sound, rate), abs=0.05)


def test_quiet_stretches_are_gated_away() -> None:
    """After EBU Tech 3341, case 3: the loudness is that of the loud part, within 0.1."""
    quiet, loud = (
        tone(seconds, rate=48_000, pitch=1000.0, level=10 ** (level / 20))
        for level, seconds in ((-36, 3.0), (-23, 18.0))
    )
    alone = loudness(loud, 48_000)
    assert loudness(np.concatenate([quiet, loud, quiet]), 48_000) == pytest.approx(alone, abs=0.1)
    silence = np.zeros(48_000 * 20, np.float32)
    assert loudness(np.concatenate([loud, silence]), 48_000) == pytest.approx(alone, abs=0.2)


def test_sound_shorter_than_a_block_is_measured_as_one() -> None:
    assert loudness(tone(0.39, rate=48_000, pitch=997.0), 48_000) == pytest.approx(
        loudness(tone(0.4, rate=48_000, pitch=997.0), 48_000), abs=0.02
    )
    assert math.isfinite(loudness(tone(0.05), 16_000))


def test_sound_below_the_absolute_gate_is_still_measured() -> None:
    assert loudness(tone(2.0, rate=48_000, pitch=997.0, level=1e-4), 48_000) == pytest.approx(-83.01, abs=0.01)


@pytest.mark.parametrize("target", [-23.0, -30.0, -16.0])
@pytest.mark.parametrize("seconds", [0.1, 0.5, 3.0])
def test_every_utterance_gets_the_loudness_asked_for(write_sound: Write, target: float, seconds: float) -> None:
    for level in (0.002, 0.1):
        sound = read(write_sound("a.wav", tone(seconds, level=level), subtype="FLOAT"), loudness=target)
        assert loudness(sound, 16_000) == pytest.approx(target, abs=0.01)
        assert sound.dtype == np.float32


def test_loudness_is_one_gain_and_nothing_is_clipped() -> None:
    sound = syllables(2.0)
    louder = with_loudness(sound, 48_000, 0.0)
    ratio = louder[np.abs(sound) > 1e-3] / sound[np.abs(sound) > 1e-3]
    assert ratio.std() / ratio.mean() < 1e-5
    assert np.abs(louder).max() > 1


def test_silence_has_no_loudness_to_change() -> None:
    silence = np.zeros(16_000, np.float32)
    np.testing.assert_array_equal(with_loudness(silence, 16_000, -23.0), silence)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_silence_at_both_ends_is_trimmed_to_the_frame(rate: int) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, 2 * rate).astype(np.float32)
    speech = tone(1.0, rate=rate)
    sound = np.concatenate([noise[: rate // 2], speech, noise])
    trimmed = trim_silence(sound, rate, 40.0)
    assert 1.0 <= len(trimmed) / rate <= 1.0 + 2 * 0.035
    first = np.flatnonzero(np.abs(trimmed) > 0.1)[0] / rate
    assert first < 0.035


def test_a_pause_inside_is_kept() -> None:
    pause = np.concatenate([tone(0.5), np.zeros(16_000, np.float32), tone(0.5)])
    assert len(trim_silence(pause, 16_000, 30.0)) == pytest.approx(len(pause), abs=400)


def test_a_larger_threshold_keeps_more() -> None:
    fading = tone(2.0) * np.logspace(0, -4, 32_000, dtype=np.float32)
    lengths = [len(trim_silence(fading, 16_000, below)) for below in (6.0, 20.0, 40.0, 60.0, 120.0)]
    assert lengths == sorted(set(lengths))
    assert lengths[1] / 16_000 == pytest.approx(0.5, abs=0.05), "80 dB in 2 s: 20 dB in 0.5 s"


@pytest.mark.parametrize("samples", [1, 2, 100, 399, 401])
def test_trimming_never_removes_all_sound(samples: int) -> None:
    click = np.zeros(samples, np.float32)
    click[samples // 2] = 0.5
    assert np.abs(trim_silence(click, 16_000, 20.0)).max() == 0.5


def test_sound_that_is_too_short_once_trimmed_is_reported(write_sound: Write) -> None:
    click = np.zeros(16_000, np.float32)
    click[8_000:8_100] = 0.5
    path = write_sound("a.wav", click)
    with pytest.raises(MediaError, match=r"too short without the silence at its ends: expected 0\.2 s, got 0\.0"):
        read(path, trim=30, minimum_seconds=0.2)


@pytest.mark.parametrize(("threshold", "ratio"), [(-20.0, 4.0), (-30.0, 2.0), (-20.0, 100.0)])
def test_a_steady_tone_is_compressed_by_the_ratio(threshold: float, ratio: float) -> None:
    sound = tone(1.0, pitch=1000.0, level=10 ** (-6 / 20))
    result = compress(sound, 16_000, Compression(threshold=threshold, ratio=ratio))
    expected = threshold + (-6 - threshold) / ratio
    assert 20 * math.log10(np.abs(result[8_000:]).max()) == pytest.approx(expected, abs=0.2)


def test_what_is_below_the_threshold_stays_as_it_is() -> None:
    sound = tone(1.0, level=0.05)
    np.testing.assert_allclose(compress(sound, 16_000, Compression(threshold=-20, ratio=8)), sound, rtol=1e-6)


def test_a_compressor_follows_louder_sound_with_its_attack_and_quieter_sound_with_its_release() -> None:
    """A step of 20 dB up and down again: the gain has gone 1 - 1/e of its way after the attack, and the release."""
    settings = Compression(threshold=-20, ratio=1e2, attack=0.02, release=0.2)
    level = np.where((np.arange(32_000) // 8_000) == 1, 1.0, 0.1).astype(np.float32)  # from 0.5 s to 1 s
    gain = 20 * np.log10(compress(level, 16_000, settings) / level)
    full = gain[15_900]
    assert full == pytest.approx(-19.8, abs=0.3)
    assert gain[7_900] == pytest.approx(0.0, abs=0.01)
    attacked = np.flatnonzero(gain < full * (1 - 1 / math.e))[0] / 16_000 - 0.5
    released = np.flatnonzero(gain[16_000:] > full / math.e)[0] / 16_000
    assert attacked == pytest.approx(0.02, abs=0.003)
    assert released == pytest.approx(0.2, abs=0.04)


def test_compression_narrows_the_dynamics_of_speech() -> None:
    sound = syllables(4.0, 16_000)
    result = compress(sound, 16_000, Compression(threshold=-40, ratio=4))
    levels, compressed = (  # of stretches of 0.2 s, root mean square
        np.log10(np.sqrt(np.mean(item.reshape(-1, 3_200) ** 2, axis=1)).clip(0.01)) for item in (sound, result)
    )
    assert np.ptp(compressed) < 0.6 * np.ptp(levels)


def test_pre_emphasis_is_its_definition() -> None:
    sound = syllables(0.5, 16_000)
    result = pre_emphasise(sound, 0.97)
    assert result[0] == sound[0]
    np.testing.assert_allclose(result[1:], sound[1:] - 0.97 * sound[:-1].astype(np.float64), atol=1e-6)
    np.testing.assert_array_equal(pre_emphasise(sound, 0.0), sound)


def test_pre_emphasis_raises_what_is_high_over_what_is_low() -> None:
    low, high = (float(pre_emphasise(tone(1.0, pitch=pitch), 0.97)[100:].std()) for pitch in (100.0, 4000.0))
    response = [abs(1 - 0.97 * np.exp(-2j * np.pi * pitch / 16_000)) for pitch in (100.0, 4000.0)]
    assert high / low == pytest.approx(response[1] / response[0], rel=0.01)


def test_steps_follow_each_other_as_documented(write_sound: Write) -> None:
    """Trim, compression, loudness, pre-emphasis."""
    sound = np.concatenate([np.zeros(8_000, np.float32), syllables(1.0, 16_000), np.zeros(8_000, np.float32)])
    path = write_sound("a.wav", sound, subtype="FLOAT")
    result = read(path, trim=40, compression={"threshold": -30, "ratio": 3}, loudness=-23, pre_emphasis=0.9)
    expected = trim_silence(sound, 16_000, 40)
    expected = compress(expected, 16_000, Compression(threshold=-30, ratio=3))
    expected = pre_emphasise(with_loudness(expected, 16_000, -23), 0.9)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "settings",
    [{"trim": 30}, {"loudness": -23}, {"pre_emphasis": 0.97}, {"compression": {"threshold": -30, "ratio": 4}}],
    ids=str,
)
@pytest.mark.parametrize("seconds", [0.05, 0.3, 2.0])
def test_conditioned_sound_is_finite_and_not_empty(
    write_sound: Write, settings: Mapping[str, Any], seconds: float
) -> None:
    for level in (2e-5, 1.0):
        sound = read(write_sound("a.wav", tone(seconds, level=level), subtype="FLOAT"), **settings)
        assert len(sound) > 0
        assert np.isfinite(sound).all()
        assert sound.dtype == np.float32


def test_conditioning_happens_at_the_rate_asked_for(write_sound: Write) -> None:
    path = write_sound("a.wav", tone(1.0, rate=44_100, pitch=997.0), 44_100)
    assert loudness(read(path, sample_rate=8_000, loudness=-20), 8_000) == pytest.approx(-20, abs=0.01)
