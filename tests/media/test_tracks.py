"""Sound of any container and codec is read whole, at its time, and a segment is the cut of the whole."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import emorec.media.mixing
from emorec.media.sound import decode_sound
from emorec.media.source import MediaError
from tests.media.clips import boxes_of, numbered

Sound = NDArray[np.float32]
RATE = 48_000
SECONDS = 3.0
HOUR = 3600.0


def chirp(seconds: float = SECONDS, rate: int = RATE, channels: int = 1) -> Sound:
    """A rising tone, alike nowhere to itself: (channels, samples)."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * (200 * time + 60 * time**2))] * channels).astype(np.float32)


def write_track(
    path: Path,
    codec: str,
    sound: Sound,
    *,
    rate: int = RATE,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    start: float = 0.0,
    lost: Iterable[int] = (),
    picture: str | None = None,
) -> Path:
    """Writes a file with sound.

    Args:
        path: its suffix says the container.
        codec: of the sound.
        sound: (channels, samples).
        rate: Hz.
        options: of the container.
        codec_options: of the codec.
        start: seconds at which the sound starts.
        lost: numbers of packets that are not written.
        picture: codec of a video of 3 s that starts at 0; `None` for none.
    """
    layout = "mono" if len(sound) == 1 else "stereo"
    with av.open(str(path), "w", options=options or {}) as target:
        video: Any = None if picture is None else target.add_stream(picture, rate=10)
        if video is not None:
            video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
        track = target.add_stream(codec, rate=rate, layout=layout, options=codec_options or {})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(track.format.name, layout, rate)
        (converted,) = resampler.resample(frame)
        converted.pts, converted.time_base = round(start * rate), Fraction(1, rate)
        packets = [*track.encode(converted), *track.encode()]
        packets = [packet for number, packet in enumerate(packets) if number not in set(lost)]
        for number, pixels in enumerate(numbered(1).repeat(30, axis=0) if video is not None else ()):
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            shown.pts = number
            packets += video.encode(shown)
        target.mux([*packets, *(video.encode() if video is not None else ())])
    return path


def decode(path: Path, start: float | None = None, end: float | None = None, maximum_seconds: float = HOUR) -> Sound:
    """The sound of a file at its own rate."""
    return decode_sound(path, start, end, maximum_seconds)[0]


def error_of(decoded: Sound, expected: Sound) -> float:
    """The largest difference, as far as both go."""
    length = min(len(decoded), len(expected))
    return float(np.abs(decoded[:length] - expected[:length]).max())


@dataclass(frozen=True)
class Format:
    """A container with a codec, and what is known of its sound.

    Attributes:
        name: of the file.
        codec: FFmpeg's name.
        delay: samples that the encoder adds in front and the file does not say to skip.
        rest: samples that may follow the last one.
        error: largest difference from what was encoded, where it has settled.
        rate: Hz.
        options: of the container.
        codec_options: of the codec.
    """

    name: str
    codec: str
    delay: int = 0
    rest: int = 0
    error: float = 0.02
    rate: int = RATE
    options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)


NO_XING = {"write_xing": "0"}
VBR = {"flags": "+qscale", "global_quality": str(4 * 118)}  # of FFmpeg's unit of quality
CLEAN = {
    "aac_coder": "fast",
    "aac_pns": "0",
}  # otherwise AAC replaces parts of the sound by noise, and another one in a segment
EXACT = 2 / 32768
FORMATS = [
    Format("a.m4a", "aac", rest=1024),
    Format("b.mp4", "aac", rest=1024, rate=16_000),
    Format("a.mkv", "aac", rest=1024),
    Format("b.mkv", "aac", rest=1024, rate=44_100),  # its packets' times are whole milliseconds
    Format("a.ts", "aac", 1024, 1024, rate=44_100),
    Format("a.flv", "aac", 1024, 1024, rate=44_100),
    Format("a.aac", "aac", 1024, 1024),
    Format("a.avi", "libmp3lame", 1105, 1152, rate=44_100),
    Format("a.mp3", "libmp3lame", rate=44_100),
    Format("b.mp3", "libmp3lame", 1105, 2 * 1152, rate=44_100, options=NO_XING),
    Format("c.mp3", "libmp3lame", 1105, 2 * 1152, rate=44_100, options=NO_XING, codec_options=VBR),
    Format("a.mp2", "mp2", 481, 1152),
    Format("a.webm", "libopus", rest=960, error=0.05),
    Format("a.ogg", "libopus", rest=960, error=0.05),
    Format("b.ogg", "flac", error=EXACT),
    Format("c.mkv", "flac", error=EXACT),
    Format("a.flac", "flac", error=EXACT),
    Format("a.mov", "pcm_s16le", error=EXACT),
    Format("d.mkv", "pcm_s16le", error=EXACT, rate=44_100),
    Format("a.wav", "pcm_s16le", error=EXACT),
    Format("b.wav", "pcm_mulaw", error=0.02, rate=8_000),
    Format("c.wav", "adpcm_ima_wav", rest=2041, rate=16_000),
    Format("a.aiff", "pcm_s16be", error=EXACT),
]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.name}-{form.codec}")
def test_a_file_is_read_whole_and_its_segments_are_cuts_of_it(form: Format, tmp_path: Path) -> None:
    sound = chirp(rate=form.rate)
    path = write_track(
        tmp_path / form.name,
        form.codec,
        sound,
        rate=form.rate,
        options=form.options,
        codec_options=CLEAN if form.codec == "aac" else form.codec_options,
    )
    whole = decode(path)
    assert 0 <= len(whole) - sound.shape[1] <= form.delay + form.rest
    settled = slice(2048, sound.shape[1] - 4096)
    assert error_of(whole[form.delay :][settled], sound[0, settled]) <= form.error
    for start, end in ((0.3, 0.7), (1.9, 2.4), (2.3, None), (2.5, 60.0)):
        first, last = round(start * form.rate), None if end is None else round(end * form.rate)
        expected, segment = whole[first:last], decode(path, start, end)
        assert len(segment) == len(expected)
        assert error_of(segment, expected) <= 1e-4


def test_joined_mp3_files_are_read_to_the_end(tmp_path: Path) -> None:
    parts = [
        write_track(tmp_path / name, "libmp3lame", chirp(1.0, rate, channels), rate=rate, options=options)
        for name, rate, channels, options in (
            ("a.mp3", 44_100, 1, {}),
            ("b.mp3", 44_100, 2, NO_XING),
            ("c.mp3", 22_050, 1, NO_XING),
        )
    ]
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = 3 * 1152 / 44_100  # seconds of the first tag, of padding and delay
    assert 3.0 <= len(decode(joined)) / 44_100 <= 3.0 + 3 * frames
    assert len(decode(joined, 1.5, 2.5)) == 44_100


def test_half_of_an_mp3_that_states_its_frames_is_refused_and_of_another_is_read(tmp_path: Path) -> None:
    for name, options in (("a.mp3", {}), ("b.mp3", NO_XING)):
        path = write_track(tmp_path / name, "libmp3lame", chirp(rate=44_100), rate=44_100, options=options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="truncated: expected 3"):
        decode(tmp_path / "a.mp3")
    assert len(decode(tmp_path / "b.mp3")) / 44_100 == pytest.approx(1.5, abs=0.1)


def stating(path: Path, size: int, riff: int | None = None) -> Path:
    """Makes a WAV file state another number of bytes of samples."""
    content = bytearray(path.read_bytes())
    offset = content.find(b"data") + 4
    content[offset : offset + 4] = struct.pack("<I", size)
    if riff is not None:
        content[4:8] = struct.pack("<I", riff)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("more", [1, 16, 36, 4000])
def test_a_wav_that_states_a_few_bytes_more_is_whole(more: int, tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.wav", "pcm_s16le", chirp(1.0))
    whole = decode(path)
    np.testing.assert_array_equal(decode(stating(path, 2 * RATE + more)), whole)
    np.testing.assert_array_equal(decode(path, 0.5, 9.0), whole[RATE // 2 :])


@pytest.mark.parametrize("riff", [None, 0])
def test_a_wav_that_states_no_bytes_is_whole(riff: int | None, tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.wav", "pcm_s16le", chirp(1.0, channels=2))
    whole = decode(path)
    np.testing.assert_array_equal(decode(stating(path, 0, riff)), whole)
    np.testing.assert_array_equal(decode(path, 0.25, 0.5), whole[RATE // 4 : RATE // 2])


def test_a_wav_that_states_much_more_is_refused(tmp_path: Path) -> None:
    path = stating(write_track(tmp_path / "a.wav", "pcm_s16le", chirp(1.0)), 2 * RATE + RATE // 5)
    with pytest.raises(MediaError, match="truncated"):
        decode(path)


def test_a_segment_of_a_gsm_wav_is_the_cut_of_the_whole(tmp_path: Path) -> None:
    """Any bits are frames of GSM 06.10: 65 bytes are 320 samples."""
    blocks = np.random.default_rng(0).integers(0, 256, (100, 65), dtype=np.uint8).tobytes()
    layout = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320)
    chunks = [(b"fmt ", layout), (b"fact", struct.pack("<I", 32_000)), (b"data", blocks)]
    body = b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    whole = decode(path)
    assert len(whole) == 32_000
    np.testing.assert_array_equal(decode(path, 2.5, 3.25), whole[20_000:26_000])


def test_a_flac_that_states_no_length_is_whole(tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.flac", "flac", chirp())
    whole, content = decode(path), bytearray(path.read_bytes())
    stated = int.from_bytes(content[18:26], "big")  # its last 36 bits are the number of samples
    content[18:26] = (stated >> 36 << 36).to_bytes(8, "big")
    path.write_bytes(content)
    np.testing.assert_array_equal(decode(path), whole)
    np.testing.assert_array_equal(decode(path, 1.5, 2.5), whole[3 * RATE // 2 : 5 * RATE // 2])


def test_an_avi_whose_header_was_never_completed_is_whole(tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.avi", "libmp3lame", chirp(rate=44_100), rate=44_100)
    whole, content = decode(path), bytearray(path.read_bytes())
    for offset in boxes_of(content, b"strh"):
        content[offset + 40 : offset + 44] = struct.pack("<I", 0x40000000)  # number of packets
    end = content.rfind(b"idx1")
    path.write_bytes(content[:end])
    np.testing.assert_array_equal(decode(path), whole)


def test_sound_in_an_avi_that_counts_packets_without_sound_is_whole(tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.avi", "libmp3lame", chirp(2.0), start=1.0, picture="mpeg4")
    assert len(decode(path)) / RATE == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.webm"])
def test_sound_that_starts_after_the_picture_has_silence_in_front(name: str, tmp_path: Path) -> None:
    codecs = {"picture": "libvpx", "codec": "libopus"} if name == "a.webm" else {"picture": "libx264", "codec": "aac"}
    path = write_track(
        tmp_path / name, sound=chirp(2.0), start=1.0, codec_options=CLEAN if codecs["codec"] == "aac" else {}, **codecs
    )
    whole = decode(path)
    assert not whole[: RATE - 2048].any()
    millisecond = RATE // 1000  # which the containers round to
    middle = chirp(2.0)[0, RATE // 2 : RATE]
    shifts = range(-millisecond, millisecond + 1)
    assert min(error_of(whole[3 * RATE // 2 + shift :], middle) for shift in shifts) <= 0.05
    for start, end in ((0.0, 0.75), (0.5, 1.5), (2.25, 2.75)):
        np.testing.assert_allclose(decode(path, start, end), whole[round(start * RATE) : round(end * RATE)], atol=1e-3)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "aac"), ("a.mp4", "aac"), ("a.ts", "aac"), ("b.mkv", "libopus")])
def test_where_packets_are_lost_is_silence(name: str, codec: str, tmp_path: Path) -> None:
    sound, options = chirp(4.0), CLEAN if codec == "aac" else {}
    path = write_track(tmp_path / name, codec, sound, codec_options=options, lost=range(30, 70), picture="mpeg4")
    whole = decode(path)
    delay = 1024 if name == "a.ts" else 0
    length = 960 if codec == "libopus" else 1024
    assert 0 <= len(whole) - sound.shape[1] <= 2048
    assert error_of(whole[70 * length + 4096 :][:RATE], sound[0, 70 * length + 4096 - delay :][:RATE]) <= 0.05
    assert not whole[32 * length : 66 * length].any()
    for start, end in ((0.5, 1.25), (1.2, 2.0), (2.75, 3.5)):
        expected = whole[round(start * RATE) : round(end * RATE)]
        np.testing.assert_allclose(decode(path, start, end), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_one_lost_packet_moves_nothing(name: str, tmp_path: Path) -> None:
    sound = chirp(2.0)
    path = write_track(tmp_path / name, "libopus", sound, lost=[30])
    assert 0 <= len(decode(path)) - sound.shape[1] <= 960
    assert error_of(decode(path)[RATE : RATE + RATE // 2], sound[0, RATE : RATE + RATE // 2]) <= 0.05


def test_an_edit_list_that_starts_later_leaves_out_what_is_before(tmp_path: Path) -> None:
    path, later = write_track(tmp_path / "a.m4a", "aac", chirp(), codec_options=CLEAN), 5000
    whole, content = decode(path), bytearray(path.read_bytes())
    (offset,) = boxes_of(content, b"elst")
    (start,) = struct.unpack(">i", content[offset + 16 : offset + 20])
    content[offset + 16 : offset + 20] = struct.pack(">i", start + later)
    path.write_bytes(content)
    np.testing.assert_allclose(decode(path)[2048:], whole[later + 2048 :], atol=1e-5)
    np.testing.assert_allclose(decode(path, 1.5, 2.5), whole[later:][3 * RATE // 2 : 5 * RATE // 2], atol=1e-5)


def test_tags_in_any_encoding_are_no_error(tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.wav", "pcm_mulaw", chirp(1.0, 8000), rate=8000)
    whole, content = decode(path), path.read_bytes()
    artist = "Jürgén".encode("latin-1")
    tags = b"LIST" + struct.pack("<I", 12 + len(artist)) + b"INFOIART" + struct.pack("<I", len(artist)) + artist
    path.write_bytes(content[:12] + tags + content[12:])
    np.testing.assert_array_equal(decode(path), whole)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a", "a.mp3"])
def test_sound_beyond_the_limit_is_refused_and_a_segment_of_it_is_not(name: str, tmp_path: Path) -> None:
    codec = {"a.wav": "pcm_s16le", "a.flac": "flac", "a.m4a": "aac", "a.mp3": "libmp3lame"}[name]
    path = write_track(tmp_path / name, codec, chirp())
    assert len(decode(path, maximum_seconds=4.0)) >= 3 * RATE
    for start, end in ((None, None), (0.25, 9.0)):
        with pytest.raises(MediaError, match=r"too long: expected at most 1\.5 s"):
            decode(path, start, end, maximum_seconds=1.5)
    assert len(decode(path, 1.75, 2.75, maximum_seconds=1.5)) == RATE


def long_track(path: Path, seconds: int) -> Path:
    """Writes a long file by repeating the packets of a short one."""
    with av.open(str(write_track(path.with_name("short.m4a"), "aac", chirp(10.24)))) as short:
        stream = short.streams.audio[0]
        packets = [bytes(packet) for packet in short.demux(stream) if packet.size][2:-3]
        with av.open(str(path), "w") as target:
            track = target.add_stream_from_template(stream)
            for number in range(round(seconds * RATE / 1024)):
                packet = av.Packet(packets[number % len(packets)])
                packet.stream, packet.time_base = track, stream.time_base
                packet.pts = packet.dts = number * 1024
                packet.duration = 1024
                target.mux(packet)
    return path


def test_a_segment_of_a_long_track_decodes_that_segment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, decoded, samples_of = long_track(tmp_path / "a.m4a", 600), [], emorec.media.mixing.samples_of

    def counted(frame: Any) -> Sound:
        decoded.append(frame.samples)
        return samples_of(frame)

    monkeypatch.setattr(emorec.media.mixing, "samples_of", counted)
    assert len(decode(path, 500.0, 503.0)) == 3 * RATE
    assert sum(decoded) < 6 * RATE
