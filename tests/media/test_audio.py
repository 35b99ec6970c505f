"""Sound of any rate and channel count is read as mono at the requested rate; unusable sound is reported."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from emorec.datasets.demo_synthesis import write_video
from emorec.media.audio import AudioSettings, audio_seconds, read_audio
from emorec.media.source import MediaError, Source
from tests.conftest import tone

Sound = NDArray[np.float32]
Write = Callable[..., Path]

LEFT, RIGHT, CENTRE, LOW, SURROUND_LEFT, SURROUND_RIGHT = range(6)


def read(path: Path, *, start: float | None = None, end: float | None = None, **settings: float) -> Sound:
    source = Source(modality="audio", path=path, start=start, end=end)
    return read_audio(source, AudioSettings(**settings))  # type: ignore[arg-type]


def pitch_of(sound: Sound, rate: int = 16_000) -> float:
    """The strongest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * rate / len(sound))


def level_of(sound: Sound) -> float:
    """Root mean square of the middle, where no codec fades in or out."""
    quarter = len(sound) // 4
    return float(np.sqrt(np.mean(sound[quarter:-quarter] ** 2)))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_comes_back_at_16_khz_with_its_length_and_pitch(write_sound: Write, suffix: str, rate: int) -> None:
    sound = read(write_sound(f"a{suffix}", tone(1.25, rate=rate, pitch=440.0), rate))
    assert sound.dtype == np.float32
    assert sound.shape == (math.ceil(round(1.25 * rate) * 16_000 / rate),)
    assert pitch_of(sound) == pytest.approx(440.0, abs=1.0)
    assert level_of(sound) == pytest.approx(0.3 / math.sqrt(2), rel=0.02)


def test_another_rate_may_be_asked_for(write_sound: Write) -> None:
    sound = read(write_sound("a.wav", tone(1.0)), sample_rate=8_000)
    assert len(sound) == 8_000
    assert pitch_of(sound, 8_000) == pytest.approx(220.0, abs=1.0)


def test_at_the_same_rate_the_samples_are_untouched(write_sound: Write) -> None:
    samples = tone(0.5)
    np.testing.assert_array_equal(read(write_sound("a.wav", samples, subtype="FLOAT")), samples)


def test_resampling_does_not_alias(write_sound: Write) -> None:
    sound = read(write_sound("a.wav", tone(1.0, rate=48_000, pitch=10_000.0), 48_000))
    assert level_of(sound) < 0.01


def test_stereo_is_the_mean_of_both_channels(write_sound: Write) -> None:
    one, other = tone(0.5, pitch=220.0), tone(0.5, pitch=500.0)
    sound = read(write_sound("a.wav", np.stack([one, other], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(sound, (one + other) / 2, atol=1e-6)


def six_channels(channel: int, pitch: float = 440.0, rate: int = 48_000) -> Sound:
    """One second of a tone in one channel of 5.1: (samples, 6)."""
    samples = np.zeros((rate, 6), dtype=np.float32)
    samples[:, channel] = tone(1.0, rate=rate, pitch=pitch)
    return samples


def write_surround_video(path: Path, samples: Sound, rate: int = 48_000) -> Path:
    """A clip with a 5.1 sound track, as those of MELD have."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=12)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        track = container.add_stream("aac", rate=rate, layout="5.1")
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, dtype=np.uint8), format="rgb24")
            frame.pts = number
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="5.1")
        sound.sample_rate, sound.time_base, sound.pts = rate, Fraction(1, rate), 0
        container.mux(track.encode(sound))
        container.mux(track.encode())
    return path


@pytest.fixture(params=["wav", "mp4"])
def write_surround(request: pytest.FixtureRequest, tmp_path: Path, write_sound: Write) -> Callable[[Sound], Path]:
    """Writes 5.1 sound as a file of its own, or as the track of a clip."""
    if request.param == "wav":
        return lambda samples: write_sound("a.wav", samples, 48_000)
    return lambda samples: write_surround_video(tmp_path / "a.mp4", samples)


def test_the_speech_of_the_centre_channel_is_kept_and_the_low_frequencies_are_dropped(
    write_surround: Callable[[Sound], Path],
) -> None:
    samples = six_channels(CENTRE) + six_channels(LOW, pitch=60.0)
    sound = read(write_surround(samples))
    assert pitch_of(sound) == pytest.approx(440.0, abs=2.0)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    rumble = round(60.0 * len(sound) / 16_000)
    assert spectrum[rumble - 3 : rumble + 4].max() < 0.01 * spectrum.max()


@pytest.mark.parametrize(
    ("channel", "weight"),
    [(LEFT, 2**-0.5), (RIGHT, 2**-0.5), (SURROUND_LEFT, 0.5), (SURROUND_RIGHT, 0.5)],
)
def test_each_of_six_channels_weighs_as_itu_says(
    write_surround: Callable[[Sound], Path], channel: int, weight: float
) -> None:
    centre = level_of(read(write_surround(six_channels(CENTRE))))
    assert level_of(read(write_surround(six_channels(channel)))) / centre == pytest.approx(weight, rel=0.02)


def test_sound_in_the_low_frequency_channel_alone_is_silence(write_surround: Callable[[Sound], Path]) -> None:
    with pytest.raises(MediaError, match="silent"):
        read(write_surround(six_channels(LOW, pitch=60.0)))


def test_a_segment_is_cut_out(write_sound: Write) -> None:
    parts = [tone(0.5, rate=44_100, pitch=pitch) for pitch in (220.0, 440.0, 880.0)]
    path = write_sound("a.wav", np.concatenate(parts), 44_100)
    middle = read(path, start=0.5, end=1.0)
    assert len(middle) == 8_000
    assert pitch_of(middle) == pytest.approx(440.0, abs=2.0)
    assert pitch_of(read(path, end=0.5)) == pytest.approx(220.0, abs=2.0)
    assert pitch_of(read(path, start=1.0)) == pytest.approx(880.0, abs=2.0)


def test_an_end_past_the_files_end_is_the_files_end(write_sound: Write) -> None:
    assert len(read(write_sound("a.wav", tone(1.0)), start=0.5, end=9.0)) == 8_000


@pytest.mark.parametrize(("start", "end"), [(5.0, 6.0), (0.8, 0.2), (5.0, None)])
def test_a_segment_without_samples_is_refused(write_sound: Write, start: float, end: float | None) -> None:
    with pytest.raises(MediaError, match="no samples"):
        read(write_sound("a.wav", tone(1.0)), start=start, end=end)


def picture(frames: int = 15) -> NDArray[np.uint8]:
    return np.full((frames, 64, 64, 3), 99, dtype=np.uint8)


def test_the_sound_track_of_a_video_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, picture(), 12, tone(1.25, rate=44_100, pitch=440.0), 44_100)
    sound = read(path)
    assert 0 <= len(sound) - 20_000 <= 2 * 1024, "AAC comes in packets of 1024 samples"
    assert pitch_of(sound[:20_000]) == pytest.approx(440.0, abs=2.0)
    assert level_of(sound) == pytest.approx(0.3 / math.sqrt(2), rel=0.05)


def test_a_segment_of_a_sound_track_is_cut_out(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, picture(), 12, np.concatenate([tone(0.5, pitch=220.0), tone(0.5, pitch=880.0)]), 16_000)
    assert len(read(path, start=0.1, end=0.4)) == 4_800
    assert pitch_of(read(path, start=0.1, end=0.4)) == pytest.approx(220.0, abs=4.0)
    assert pitch_of(read(path, start=0.6, end=0.9)) == pytest.approx(880.0, abs=4.0)


def test_a_video_without_sound_is_reported(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", picture(), 12, None, 16_000)
    with pytest.raises(MediaError, match="no sound track"):
        read(tmp_path / "a.mp4")


def truncated(path: Path, share: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4"])
def test_an_empty_file_is_reported(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"")
    with pytest.raises(MediaError, match="the file is empty"):
        read(tmp_path / f"a{suffix}")


def test_a_file_without_samples_is_reported(write_sound: Write) -> None:
    with pytest.raises(MediaError, match="no samples"):
        read(write_sound("a.wav", tone(0.0)))


def test_a_truncated_wav_is_reported_although_its_beginning_can_be_read(write_sound: Write) -> None:
    path = truncated(write_sound("a.wav", tone(1.0)))
    assert len(soundfile.read(path)[0]) > 9_000
    with pytest.raises(MediaError, match="truncated"):
        read(path)


def test_a_wav_whose_header_states_no_length_is_read(write_sound: Write) -> None:
    path = write_sound("a.wav", tone(1.0))
    content = bytearray(path.read_bytes())
    content[4:8] = b"\xff\xff\xff\xff"  # as recorders write to a pipe
    path.write_bytes(content)
    assert len(read(path)) == 16_000


@pytest.mark.parametrize("share", [0.6, 0.95])
def test_a_truncated_flac_is_refused(write_sound: Write, share: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 32_000).astype(np.float32)
    with pytest.raises(MediaError, match=r"truncated|not decodable"):
        read(truncated(write_sound("a.flac", noise), share))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95])
def test_a_truncated_video_is_refused(tmp_path: Path, share: float) -> None:
    write_video(tmp_path / "a.mp4", picture(), 12, tone(1.25), 16_000)
    with pytest.raises(MediaError, match="not decodable"):
        read(truncated(tmp_path / "a.mp4", share))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_video_whose_index_comes_first_is_not_read_as_a_shorter_one(tmp_path: Path, share: float) -> None:
    write_video(tmp_path / "index_last.mp4", picture(36), 12, tone(3.0), 16_000)
    with (
        av.open(str(tmp_path / "index_last.mp4")) as whole,
        av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "+faststart"}) as copy,
    ):
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in whole.streams}
        for packet in whole.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    assert len(read(tmp_path / "a.mp4")) >= 48_000
    with pytest.raises(MediaError, match=r"truncated|not decodable"):
        read(truncated(tmp_path / "a.mp4", share))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_silence_is_refused(write_sound: Write, suffix: str) -> None:
    with pytest.raises(MediaError, match="the sound is silent"):
        read(write_sound(f"a{suffix}", tone(1.0, level=0.0)))


def test_very_quiet_speech_is_not_silence(write_sound: Write) -> None:
    assert len(read(write_sound("a.wav", tone(0.5, level=2e-4)))) == 8_000


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(write_sound: Write, value: float) -> None:
    samples = tone(1.0, rate=44_100)
    samples[100] = value
    with pytest.raises(MediaError, match="not numbers"):
        read(write_sound("a.wav", samples, 44_100, subtype="FLOAT"))


def test_sound_that_is_too_short_is_refused_with_both_lengths(write_sound: Write) -> None:
    path = write_sound("a.wav", tone(0.04, rate=44_100), 44_100)
    with pytest.raises(MediaError, match=r"too short: expected 0\.05 s, got 0\.040 s"):
        read(path)
    assert len(read(path, minimum_seconds=0.01)) == 640


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4"])
def test_text_with_the_name_of_a_sound_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("<html>404 Not Found</html>\n" * 50)
    with pytest.raises(MediaError, match="not decodable"):
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4"])
def test_a_missing_file_is_an_os_error_and_not_a_media_error(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        read(tmp_path / f"missing{suffix}")
    assert not isinstance(caught.value, MediaError)


def test_audio_seconds_is_the_length_of_the_segment(write_sound: Write) -> None:
    source = Source(modality="audio", path=write_sound("a.wav", tone(2.0, rate=8_000), 8_000), start=0.5)
    assert audio_seconds(source, AudioSettings()) == pytest.approx(1.5)
