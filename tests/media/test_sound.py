"""Sound of any container, codec, rate and number of channels is read; files that state the wrong length are refused."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.media.audio import AudioSettings, read_audio
from emorec.media.sound import decode_sound
from emorec.media.source import MediaError, Source
from emorec.media.video import VideoSettings, read_video
from tests.conftest import tone
from tests.media.clips import claiming, numbered, write_clip

Sound = NDArray[np.float32]
Write = Callable[..., Path]
NO_FRAMES = numbered(0)


def read(path: Path, **source: Any) -> Sound:
    return read_audio(Source(modality="audio", path=path, **source), AudioSettings())


def pitch_of(sound: Sound) -> float:
    """The strongest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * 16_000 / len(sound))


def channels(count: int, rate: int, seconds: float = 1.5) -> Sound:
    """A tone of 440 Hz in each of so many channels: (channels, samples)."""
    return np.stack([tone(seconds, rate=rate, pitch=440.0, level=0.2)] * count)


TRACKS = {
    "mp4, mono, 8 kHz": ("a.mp4", "aac", 1, "mono", 8_000),
    "mp4, stereo, 44.1 kHz": ("a.mp4", "aac", 2, "stereo", 44_100),
    "mp4, 5.1, 48 kHz": ("a.mp4", "aac", 6, "5.1", 48_000),
    "mp4, mono, 96 kHz": ("a.mp4", "aac", 1, "mono", 96_000),
    "matroska, mono, 192 kHz": ("a.mkv", "pcm_s16le", 1, "mono", 192_000),
    "avi, stereo, 22.05 kHz": ("a.avi", "pcm_s16le", 2, "stereo", 22_050),
    "avi, 5.1, 48 kHz": ("a.avi", "pcm_s16le", 6, "5.1", 48_000),
    "flv, mono, 44.1 kHz": ("a.flv", "aac", 1, "mono", 44_100),
}


@pytest.mark.parametrize("name", TRACKS)
@pytest.mark.parametrize("with_picture", [True, False])
def test_sound_tracks_have_their_pitch_and_length(name: str, with_picture: bool, tmp_path: Path) -> None:
    file, codec, count, layout, rate = TRACKS[name]
    picture = {".avi": "mpeg4", ".flv": "flv"}.get(Path(file).suffix, "libx264")
    frames = numbered(15) if with_picture else NO_FRAMES
    path = write_clip(
        tmp_path / file,
        frames,
        picture,
        sound=channels(count, rate),
        sound_codec=codec,
        sound_rate=rate,
        layout=layout,
    )
    for segment in ({}, {"start": 0.25, "end": 1.0}):
        one = read(path, **segment)
        assert pitch_of(one) == pytest.approx(440.0, abs=2.0)
        if segment:
            assert 0 <= len(one) - 12_000 <= 1
        else:
            assert 24_000 <= len(one) <= 24_000 + 2 * 2048 * 16_000 / rate


def test_a_clip_without_a_sound_track_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no sound track"):
        read(write_clip(tmp_path / "a.mp4", numbered()))


@pytest.mark.parametrize(("start", "end"), [(50.0, 60.0), (1.0, 0.5), (9.0, None)])
def test_a_segment_after_the_end_of_a_sound_track_is_refused(tmp_path: Path, start: float, end: float | None) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(15), sound=channels(1, 16_000))
    with pytest.raises(MediaError, match="no samples"):
        read(path, start=start, end=end)


@pytest.mark.parametrize(
    ("by", "reason"), [("count", r"truncated: expected 108\d\d.\d\d s"), ("duration", "too long: expected at most")]
)
def test_a_sound_track_that_states_three_hours_is_refused_at_once(tmp_path: Path, by: str, reason: str) -> None:
    path = claiming(write_clip(tmp_path / "a.mp4", numbered(20), sound=channels(1, 16_000, 2.0)), 10_800, by=by)
    with pytest.raises(MediaError, match=reason):
        read(path)


def test_a_wav_that_states_three_hours_is_refused_at_once(write_sound: Write) -> None:
    path = write_sound("a.wav", tone(1.0))
    content = bytearray(path.read_bytes())
    size = 10_800 * 16_000 * 2
    content[4:8], content[40:44] = struct.pack("<I", size + 36), struct.pack("<I", size)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="truncated"):
        read(path)


def test_a_flac_that_states_three_hours_is_refused_without_the_memory_for_them(write_sound: Write) -> None:
    path = write_sound("a.flac", tone(1.0))
    content = bytearray(path.read_bytes())
    # the last 36 bits before the checksum of the header's first block hold the number of samples
    fields = int.from_bytes(content[18:26], "big")
    stated = (1 << 36) - 1  # 50 days, 256 GiB
    content[18:26] = ((fields >> 36 << 36) | stated).to_bytes(8, "big")
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"truncated|not decodable"):
        read(path)


@pytest.mark.parametrize("source", ["a.wav", "a.flac"])
def test_a_sound_file_named_as_a_video_is_read_as_what_it_is(write_sound: Write, tmp_path: Path, source: str) -> None:
    """Six channels, which both kinds of decoder mix at other levels."""
    path = write_sound(source, np.stack([tone(0.5, pitch=200.0 + 50 * number) for number in range(6)], axis=1))
    expected = read(path)
    np.testing.assert_array_equal(read(path.rename(tmp_path / "b.mp4")), expected)


@pytest.mark.parametrize("suffix", [".wav", ".m4a", ".unknown"])
def test_a_video_named_as_sound_is_read_as_what_it_is(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(15), sound=channels(1, 16_000))
    expected = read(path)
    np.testing.assert_array_equal(read(path.rename(tmp_path / f"b{suffix}")), expected)


def test_long_sound_is_read_in_blocks(write_sound: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sound("a.wav", np.stack([tone(1.0), tone(1.0, pitch=500.0)], axis=1))
    segments = ((None, None), (0.2, 0.7))
    whole, part = (decode_sound(path, start, end, 60.0)[0] for start, end in segments)
    monkeypatch.setattr("emorec.media.sound.BLOCK", 1000)
    np.testing.assert_array_equal(decode_sound(path, None, None, 60.0)[0], whole)
    np.testing.assert_array_equal(decode_sound(path, 0.2, 0.7, 60.0)[0], part)


def test_samples_of_a_sound_track_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    sound = channels(1, 16_000)
    sound[0, 5000] = np.nan
    path = write_clip(tmp_path / "a.mkv", NO_FRAMES, sound=sound, sound_codec="pcm_f32le")
    with pytest.raises(MediaError, match="not numbers"):
        read(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {"sound_codec": "aac"}),
        ("a.flv", {"sound_codec": "aac"}),
        ("a.avi", {"codec": "mpeg4", "sound_codec": "pcm_s16le"}),
        ("a.webm", {"codec": "libvpx", "sound_codec": "libopus"}),
        ("a.aiff", {}),
        ("a.wav", {}),
    ],
)
def test_half_of_a_file_is_refused_and_the_whole_is_not(
    name: str, options: dict[str, str], tmp_path: Path, write_sound: Write
) -> None:
    if name.endswith(("aiff", "wav")):
        path = write_sound(name, tone(6.0))
    else:
        rate = 48_000 if "webm" in name else 16_000
        sound = np.random.default_rng(0).normal(0, 0.1, (1, 6 * rate)).astype(np.float32)
        path = write_clip(tmp_path / name, numbered(60), sound=sound, sound_rate=rate, **options)  # type: ignore[arg-type]
    assert len(read(path)) / 16_000 == pytest.approx(6.0, abs=0.1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=r"truncated|not decodable"):
        read(path)
    if not name.endswith(("aiff", "wav")):
        path.write_bytes(content)
        assert len(read_video(Source(modality="video", path=path), VideoSettings(frames=4, size=64))) == 4
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(MediaError, match=r"truncated|not decodable"):
            read_video(Source(modality="video", path=path), VideoSettings(frames=4, size=64))


@pytest.mark.parametrize("stated", [0x7FFFFFFF, 0x7FFFF024, 0xFFFFFFFF, None])
def test_a_whole_wav_is_read_whatever_length_its_first_header_states(stated: int | None, write_sound: Write) -> None:
    path = write_sound("a.wav", tone(1.0))
    expected = read(path)
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", len(content) if stated is None else stated)
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), expected)
