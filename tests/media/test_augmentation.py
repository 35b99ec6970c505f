"""Views differ from the source and from each other as configured, and are the same wherever they are computed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.config.validation import validated
from emorec.encoders.log_mel import LogMel
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.augmentation import (
    LUMINANCE,
    AudioAugmentation,
    VideoAugmentation,
    generator_of,
    with_colors,
    with_noise,
)
from emorec.media.source import MediaSettings, Source
from emorec.media.video import VideoSettings, read_video
from tests.conftest import REPOSITORY, tone
from tests.media.clips import numbered, numbers_of, write_clip

Sound = NDArray[np.float32]
Frames = NDArray[np.uint8]
Write = Callable[..., Path]
KINDS: dict[str, Any] = {"audio": AudioSettings, "video": VideoSettings}
EVERYTHING: dict[str, dict[str, Any]] = {
    "audio": {"noise_snr": [10, 30], "gain": [-6, 6], "speed": [0.9, 1.1]},
    "video": {"flip": 0.5, "color_jitter": 0.2, "crop": 0.8, "drop_frames": 0.3},
}


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def read(path: Path, view: int, augmentation: dict[str, Any] | None, **settings: Any) -> Sound:
    source = Source(modality="audio", path=path, view=view)
    return read_audio(source, validated(AudioSettings, {"augmentation": augmentation, **settings}))


def see(path: Path, view: int, augmentation: dict[str, Any] | None, **settings: Any) -> Frames:
    source = Source(modality="video", path=path, view=view)
    return read_video(
        source, validated(VideoSettings, {"frames": 8, "size": 64, "augmentation": augmentation, **settings})
    )


@pytest.fixture
def speech(write_sound: Write) -> Path:
    sound = tone(1.0) + np.random.default_rng(1).normal(0, 0.02, 16_000).astype(np.float32)
    return write_sound("a.wav", sound, subtype="FLOAT")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", numbered(20))


def decibels(power: float) -> float:
    return float(10 * np.log10(power))


@pytest.mark.parametrize("snr", [-5.0, 0.0, 10.0, 40.0])
def test_noise_is_mixed_at_exactly_its_ratio_and_is_white(snr: float) -> None:
    sound = tone(2.0, pitch=300.0)
    noise = with_noise(sound, snr, generator()).astype(np.float64) - sound
    assert decibels(np.mean(sound.astype(np.float64) ** 2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.01)
    power = np.abs(np.fft.rfft(noise)) ** 2
    quarters = [part.mean() / power.mean() for part in np.array_split(power, 4)]
    np.testing.assert_allclose(quarters, 1.0, atol=0.1)


def test_the_ratio_of_each_view_is_drawn_from_the_interval(speech: Path) -> None:
    clean = read(speech, 0, None).astype(np.float64)
    ratios = []
    for view in range(1, 41):
        noise = read(speech, view, {"noise_snr": [5, 15]}) - clean
        ratios.append(decibels(np.mean(clean**2) / np.mean(noise**2)))
    assert 4.99 <= min(ratios) < 7
    assert 13 < max(ratios) <= 15.01
    assert np.mean(ratios) == pytest.approx(10, abs=1.5)


def test_the_gain_of_each_view_is_one_number_of_the_interval(speech: Path) -> None:
    clean = read(speech, 0, None)
    gains = []
    for view in range(1, 91):
        result = read(speech, view, {"gain": [-6, 3]})
        loud = np.abs(clean) > 0.05
        ratio = result[loud] / clean[loud]
        assert ratio.std() < 1e-5
        gains.append(20 * np.log10(ratio.mean()))
    assert -6 <= min(gains) < -4.5
    assert 1.5 < max(gains) <= 3


@pytest.mark.parametrize("factor", [80, 90, 97, 110, 125])
def test_speed_changes_duration_and_pitch_by_its_factor(factor: int) -> None:
    result = AudioAugmentation(speed=(factor / 100, factor / 100)).vary(tone(2.0, pitch=400.0), generator())
    assert len(result) == pytest.approx(32_000 * 100 / factor, abs=1)
    spectrum = np.abs(np.fft.rfft(result * np.hanning(len(result))))
    assert np.argmax(spectrum) * 16_000 / len(result) == pytest.approx(400.0 * factor / 100, abs=1.0)
    assert result[4000:-4000].std() == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


def test_a_speed_of_one_leaves_the_sound_as_it_is() -> None:
    np.testing.assert_array_equal(AudioAugmentation(speed=(1.0, 1.0)).vary(tone(0.5), generator()), tone(0.5))


def test_the_lengths_of_views_spread_over_the_interval(speech: Path) -> None:
    lengths = [len(read(speech, view, {"speed": [0.9, 1.1]})) / 16_000 for view in range(1, 41)]
    assert 1 / 1.1 - 1e-3 <= min(lengths) < 0.94
    assert 1.07 < max(lengths) <= 1 / 0.9 + 1e-3


def test_no_sound_is_sped_up_below_the_minimum_length(write_sound: Write) -> None:
    path = write_sound("a.wav", tone(0.055))
    for view in range(1, 20):
        assert len(read(path, view, {"speed": [1.5, 2.0]})) == 880
        assert len(read(path, view, {"speed": [0.5, 0.6]})) > 880


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_view_0_is_the_source_whatever_augmentation_says(modality: str, speech: Path, clip: Path) -> None:
    look: Any = read if modality == "audio" else see
    path = speech if modality == "audio" else clip
    np.testing.assert_array_equal(look(path, 0, EVERYTHING[modality]), look(path, 0, None))


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_views_differ_from_the_source_and_from_each_other(modality: str, speech: Path, clip: Path) -> None:
    look: Any = read if modality == "audio" else see
    path = speech if modality == "audio" else clip
    views = [look(path, view, EVERYTHING[modality]).tobytes() for view in range(6)]
    assert len(set(views)) == 6


def test_views_of_different_sounds_vary_differently(write_sound: Write) -> None:
    gains = []
    for number in range(5):
        path = write_sound(f"{number}.wav", tone(0.5, pitch=200.0 + number), subtype="FLOAT")
        gains.append(float(np.abs(read(path, 1, {"gain": [-6, 6]})).max()))
    assert len({round(gain, 4) for gain in gains}) == 5


def test_views_do_not_depend_on_path_and_modification_time(speech: Path, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for look, path, modality in ((read, speech, "audio"), (see, clip, "video")):
        there = folder / f"another name{path.suffix}"
        shutil.copy(path, there)
        os.utime(there, (0, 0))
        looks: Any = look
        np.testing.assert_array_equal(looks(there, 2, EVERYTHING[modality]), looks(path, 2, EVERYTHING[modality]))


@pytest.mark.slow
def test_other_processes_make_the_same_views(speech: Path, clip: Path) -> None:
    code = (
        "import hashlib, json, sys\n"
        "from pathlib import Path\n"
        "from emorec.config.validation import validated\n"
        "from emorec.encoders.log_mel import LogMel\n"
        "from emorec.media.audio import AudioSettings\n"
        "from emorec.media.source import Source\n"
        "from emorec.media.video import VideoSettings, read_video\n"
        "speech, clip, everything = json.load(sys.stdin)\n"
        "masks = {'time_masks': 2, 'frequency_masks': 2}\n"
        "encoder = LogMel(media=validated(AudioSettings, {'augmentation': {**everything['audio'], **masks}}))\n"
        "encoder.load()\n"
        "settings = validated(VideoSettings, {'frames': 8, 'size': 64, 'augmentation': everything['video']})\n"
        "for view in (1, 2):\n"
        "    sound = encoder.features(Source(modality='audio', path=Path(speech), view=view))\n"
        "    frames = read_video(Source(modality='video', path=Path(clip), view=view), settings)\n"
        "    print(hashlib.sha256(sound.tobytes() + frames.tobytes()).hexdigest())\n"
    )
    result = set()
    for seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps([str(speech), str(clip), EVERYTHING]),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert len(set(process.stdout.split())) == 2
        result.add(process.stdout)
    assert len(result) == 1


def test_the_global_random_state_neither_decides_nor_changes(speech: Path) -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    one = read(speech, 1, EVERYTHING["audio"])
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    np.random.seed(1)
    np.testing.assert_array_equal(read(speech, 1, EVERYTHING["audio"]), one)


def test_a_seed_is_the_sha256_of_view_segment_length_and_both_ends(tmp_path: Path) -> None:
    """Written out, so that a change, which would make other views of every corpus, is noticed."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 800)
    ends = path.read_bytes()[: 1 << 16] + path.read_bytes()[-(1 << 16) :]
    digest = hashlib.sha256(b"3 (0.5, None) 200000 " + ends).digest()
    expected = np.random.default_rng(int.from_bytes(digest, "big")).random(3)
    np.testing.assert_array_equal(generator_of(3, path, (0.5, None)).random(3), expected)


def test_loudness_does_not_undo_the_gain_of_a_view(speech: Path) -> None:
    clean = read(speech, 0, None, loudness=-23)
    result = read(speech, 1, {"gain": [5, 6]}, loudness=-23)
    assert 5 <= 20 * np.log10(result.std() / clean.std()) <= 6


def log_mel(**augmentation: Any) -> LogMel:
    encoder = LogMel(media=AudioSettings(augmentation=AudioAugmentation(**augmentation)), bands=40)
    encoder.load()
    return encoder


def masked(path: Path, view: int, **augmentation: Any) -> NDArray[np.bool_]:
    """(T, bands): where a view's spectrogram is not that of the source."""
    encoder = log_mel(**augmentation)
    clean, result = (encoder.features(Source(modality="audio", path=path, view=number)) for number in (0, view))
    mean = np.broadcast_to(clean.mean(axis=0), clean.shape)
    different = clean != result
    np.testing.assert_array_equal(result[different], mean[different])
    return np.asarray(different)


def test_a_time_mask_covers_neighbouring_frames_up_to_its_length(speech: Path) -> None:
    widths = []
    for view in range(1, 31):
        frames = masked(speech, view, time_masks=1, time_mask_seconds=0.12)
        assert (frames.all(axis=1) | ~frames.any(axis=1)).all()
        indices = np.flatnonzero(frames.any(axis=1))
        widths.append(len(indices))
        assert len(indices) == 0 or np.ptp(indices) == len(indices) - 1
    assert max(widths) <= 12
    assert len(set(widths)) > 5


def test_time_masks_leave_most_of_a_short_utterance(write_sound: Write) -> None:
    path = write_sound("a.wav", tone(0.4) + np.random.default_rng(0).normal(0, 0.1, 6400).astype(np.float32))
    for view in range(1, 31):
        assert masked(path, view, time_masks=1, time_mask_seconds=5.0).any(axis=1).sum() <= 0.2 * 41


def test_frequency_masks_cover_groups_of_bands(speech: Path) -> None:
    counts = []
    for view in range(1, 31):
        bands = masked(speech, view, frequency_masks=2, frequency_mask_bands=6)
        assert (bands.all(axis=0) | ~bands.any(axis=0)).all()
        counts.append(int(bands.any(axis=0).sum()))
    assert 6 < max(counts) <= 12
    assert len(set(counts)) > 4


def test_masks_leave_the_waveform_alone(speech: Path) -> None:
    masks = {"time_masks": 2, "frequency_masks": 2}
    np.testing.assert_array_equal(read(speech, 1, masks), read(speech, 0, None))


def test_view_0_of_a_spectrogram_is_not_masked(speech: Path) -> None:
    source = Source(modality="audio", path=speech)
    plain = log_mel(gain=[0, 0]).features(source)
    np.testing.assert_array_equal(log_mel(time_masks=3, frequency_masks=3).features(source), plain)


def gradient() -> Frames:
    """Frames that are the same, dark at the left and light at the right, with colours: (6, 64, 64, 3)."""
    frames = np.empty((6, 64, 64, 3), dtype=np.uint8)
    frames[:] = np.linspace(40, 200, 64)[None, None, :, None]
    frames[..., 0] += 20
    return frames


def test_a_flip_exchanges_left_and_right_of_every_frame() -> None:
    result = VideoAugmentation(flip=1.0).vary(gradient(), generator())
    np.testing.assert_array_equal(result, gradient()[:, :, ::-1])


def test_about_half_of_the_views_are_flipped(clip: Path) -> None:
    clean = see(clip, 0, None)
    views = [see(clip, view, {"flip": 0.5}) for view in range(1, 41)]
    flipped = sum((view == clean[:, :, ::-1]).all() for view in views)
    assert flipped + sum((view == clean).all() for view in views) == 40
    assert 10 <= flipped <= 30


def test_dropped_frames_show_the_frame_before(clip: Path) -> None:
    shown = [numbers_of(see(clip, view, {"drop_frames": 0.5}, frames=20)) for view in range(1, 11)]
    clean = numbers_of(see(clip, 0, None, frames=20))
    assert clean == list(range(20))
    for numbers in shown:
        assert numbers[0] == 0
        assert all(now in (before, index) for index, (before, now) in enumerate(pairwise(numbers), start=1))
    dropped = sum(number != index for numbers in shown for index, number in enumerate(numbers)) / (19 * 10)
    assert 0.4 <= dropped <= 0.6


def test_all_frames_but_the_first_may_be_dropped() -> None:
    frames = numbered(5)
    result = VideoAugmentation(drop_frames=1.0).vary(frames, generator())
    np.testing.assert_array_equal(result, np.stack([frames[0]] * 5))


def test_a_crop_keeps_its_share_and_the_size(clip: Path) -> None:
    """The gradient's range tells how much of the width is left."""
    for seed in range(20):
        result = VideoAugmentation(crop=0.5).vary(gradient(), np.random.default_rng(seed))
        assert result.shape == gradient().shape
        left = float(np.ptp(result[0, 32, :, 1].astype(int))) / np.ptp(gradient()[0, 32, :, 1].astype(int))
        assert 0.5**0.5 - 0.05 <= left <= 1.0
        assert (result == result[0]).all(), "the same part of every frame"
    assert see(clip, 1, {"crop": 0.3}).shape == (8, 64, 64, 3)


def test_brightness_contrast_and_saturation_have_their_usual_effect() -> None:
    frames = gradient()
    grey = (frames.astype(np.float32) @ LUMINANCE).astype(np.float64)
    darker = with_colors(frames, 0.8, 1.0, 1.0).astype(np.float64)
    np.testing.assert_allclose(darker, frames * 0.8, atol=1)
    flatter = with_colors(frames, 1.0, 0.5, 1.0).astype(np.float32) @ LUMINANCE
    assert flatter.mean() == pytest.approx(grey.mean(), abs=1)
    assert flatter.std() == pytest.approx(grey.std() / 2, rel=0.03)
    paler = with_colors(frames, 1.0, 1.0, 0.0).astype(int)
    assert np.ptp(paler, axis=-1).max() <= 1
    np.testing.assert_allclose(paler.astype(np.float32) @ LUMINANCE, grey, atol=1)
    np.testing.assert_array_equal(with_colors(frames, 1.0, 1.0, 1.0), frames)


def test_colors_change_in_all_frames_alike() -> None:
    result = VideoAugmentation(color_jitter=0.4).vary(gradient(), generator())
    assert (result == result[0]).all()
    assert (result != gradient()).any()


@pytest.mark.parametrize(
    ("modality", "nothing"),
    [
        ("audio", None),
        ("audio", {}),
        ("audio", {"gain": None, "time_masks": 0, "time_mask_seconds": 0.2}),
        ("video", None),
        ("video", {}),
        ("video", {"flip": None, "crop": 1.0, "color_jitter": 0.0}),
    ],
)
def test_views_without_augmentation_are_refused(modality: str, nothing: Any) -> None:
    settings: MediaSettings = validated(KINDS[modality], {"augmentation": nothing})
    settings.check_views(0, f"encoder.{modality}")
    with pytest.raises(UserError, match=rf"encoder\.{modality}\.media\.augmentation .* encoder\.{modality}\.views=2"):
        settings.check_views(2, f"encoder.{modality}")


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_views_with_any_augmentation_are_accepted(modality: str) -> None:
    for key, value in EVERYTHING[modality].items():
        validated(KINDS[modality], {"augmentation": {key: value}}).check_views(3, f"encoder.{modality}")


@pytest.mark.parametrize("masks", [AudioAugmentation(time_masks=1), AudioAugmentation(frequency_masks=2)])
def test_masks_need_a_spectrogram(masks: AudioAugmentation) -> None:
    settings = AudioSettings(augmentation=masks)
    settings.check_views(1, "encoder.audio", spectrogram=True)
    settings.check_views(0, "encoder.audio")
    with pytest.raises(UserError, match=r"expected no time_masks .* as encoder\.audio has no spectrogram"):
        settings.check_views(1, "encoder.audio")
