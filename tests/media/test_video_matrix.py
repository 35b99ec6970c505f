"""Codecs, containers and cuts: the frames are those of FFmpeg's own decode, wherever reading starts."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from emorec.media import frames as frames_module
from emorec.media.frames import FRAME_READERS, DecodingError, FrameReader
from emorec.media.source import MediaError, Source, clock_start, open_container
from emorec.media.video import VideoSettings, read_video
from emorec.media.video_track import read_track
from tests.conftest import tone
from tests.media.clips import numbered, numbers_of, only_first, write_clip

pytestmark = pytest.mark.slow

COUNT, RATE = 24, 25
CLOSED = {"g": "8", "bf": "3", "x264-params": "keyint=8:min-keyint=8:scenecut=0"}
OPEN = {"g": "8", "bf": "3", "x264-params": "keyint=8:min-keyint=8:scenecut=0:open-gop=1"}
HEVC = {"x265-params": "keyint=8:min-keyint=8:scenecut=0:bframes=3:log-level=none:pools=none:frame-threads=1"}
EXACT = {"g": "8", "bf": "2", "qmax": "3", "b": "4000000"}
PLAIN = {"g": "8", "qmax": "3", "b": "4000000"}
STREAMS: dict[str, tuple[str, dict[str, str], str]] = {
    "h264": ("libx264", CLOSED, "mp4 mov mkv ts mts mxf avi flv"),
    "h264, open": ("libx264", OPEN, "mp4 mov mkv ts mts mxf avi flv"),
    "h264, no b": ("libx264", {"g": "8", "bf": "0"}, "mp4 ts avi"),
    "hevc": ("libx265", HEVC, "mp4 mkv ts"),
    "mpeg2": ("mpeg2video", EXACT, "mp4 mkv ts mxf mpg avi"),
    "mpeg4": ("mpeg4", EXACT, "mp4 mkv ts avi"),
    "mpeg4, no b": ("mpeg4", PLAIN, "mp4 mkv avi"),
    "vp8": ("libvpx", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "12", "deadline": "realtime"}, "webm"),
    "vp9": ("libvpx-vp9", {"g": "8", "lag-in-frames": "12", "deadline": "realtime", "cpu-used": "8"}, "webm mp4"),
    "mjpeg": ("mjpeg", {"qmax": "3", "strict": "-1"}, "mkv avi mov"),
    "ffv1": ("ffv1", {}, "mkv avi"),
    "flv1": ("flv", PLAIN, "flv"),
    "wmv": ("wmv2", PLAIN, "wmv"),
}
FILES = {
    f"{name}, {container}": (name, container) for name, (_, _, many) in STREAMS.items() for container in many.split()
}
CUTS = {"all": slice(None), "every fifth": slice(2, None, 5), "the middle": slice(4, 8), "the last": slice(-1, None)}


def opened(path: Path) -> FrameReader:
    track = read_track(path)
    for make in FRAME_READERS["av"]:
        try:
            video = make(path, track)
            video.read(np.arange(len(video.starts)))
            return video
        except DecodingError:
            continue
    raise AssertionError("expected a reader")


def written(folder: Path, name: str, container: str) -> Path:
    codec, options, _ = STREAMS[name]
    return write_clip(folder / f"a.{container}", numbered(COUNT, 64, 64), codec, rate=RATE, options=options)


def decoded(path: Path) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8]]:
    """FFmpeg's own decode: times on the file's clock, `None` where the container states no true ones, and frames."""
    with open_container(path, MediaError) as container:
        zero, frames = clock_start(container), []
        for packet in container.demux(video=0):
            with suppress(av.InvalidDataError):  # before the first key frame
                frames += packet.decode()
    times = [frame.time for frame in frames]
    stated = None not in times and times == sorted(times)
    return np.array(times) - zero if stated else None, np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def assert_reads_as_ffmpeg(path: Path) -> FrameReader:
    times, frames = decoded(path)
    video = opened(path)
    if times is not None:
        np.testing.assert_allclose(video.starts, times, atol=1e-6)
    numbers = np.arange(len(frames))
    whole = video.read(numbers)
    assert np.abs(whole.astype(int) - frames).mean(axis=(1, 2, 3)).max() < 3  # FFmpeg scales colours otherwise
    for name, cut in CUTS.items():
        np.testing.assert_array_equal(video.read(numbers[cut]), whole[cut], err_msg=name)
    return video


@pytest.mark.parametrize("file", FILES)
def test_all_frames_of_any_codec_in_any_container_are_read(file: str, tmp_path: Path) -> None:
    path = written(tmp_path, *FILES[file])
    video = assert_reads_as_ffmpeg(path)
    assert numbers_of(video.read(np.arange(len(video.starts)))) == list(range(COUNT))


@pytest.mark.parametrize("name", ["h264", "h264, open", "hevc", "mpeg2"])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_lossless_cut_shows_what_ffmpeg_shows(name: str, container: str, tmp_path: Path) -> None:
    """Cut at a key frame, some frames refer to others that are cut off; in the middle, frames before it are lost."""
    whole = written(tmp_path, name, container)
    for first in (8,) if name == "h264, open" else (8, 11):  # in the middle of these, no key frame follows
        path = remuxed(whole, tmp_path / f"cut{first}.{container}", first=first)
        assert_reads_as_ffmpeg(path)


def remuxed(path: Path, copy: Path, *, first: int = 0) -> Path:
    """Copies the packets from number `first` on, as a cut without new encoding does."""
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][first:]:
            packet.stream = stream
            target.mux(packet)
    return copy


@pytest.mark.parametrize("file", ["h264, mp4", "h264, mkv", "h264, no b, mp4", "hevc, mp4", "vp9, webm", "ffv1, mkv"])
def test_a_late_segment_of_a_long_file_is_read_without_what_comes_before(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, *FILES[file])
    sizes = [sum(sizes_read(path, monkeypatch, far)) for far in (1000, 1)]
    assert sizes[1] < sizes[0]
    assert_reads_as_ffmpeg(path)


def sizes_read(path: Path, monkeypatch: pytest.MonkeyPatch, far: int) -> list[int]:
    """How many bytes each packet has that is read for the last two frames, if packets from number `far` on are far."""
    monkeypatch.setattr(frames_module, "FAR", far)
    video, sizes = opened(path), list[int]()

    def counted(packets: Iterable[Any]) -> Iterator[Any]:
        for packet in packets:
            if packet.size:
                sizes.append(packet.size)
                yield packet

    with monkeypatch.context() as patch:
        patch.setattr(frames_module, "full_packets", counted)
        assert numbers_of(video.read(np.array([22, 23]))) == [22, 23]
    return sizes


def sampled(path: Path, frames: int, **source: Any) -> list[int]:
    """Which frames `read_video` gives."""
    settings = VideoSettings(frames=frames, size=64)
    return numbers_of(read_video(Source(modality="video", path=path, **source), settings))


@pytest.mark.parametrize("file", ["h264, mp4", "h264, open, mkv", "h264, ts", "hevc, ts", "mpeg2, mts", "vp9, webm"])
def test_a_segment_holds_the_frames_that_are_shown_in_it(file: str, tmp_path: Path) -> None:
    *name, container = file.split(", ")
    path = written(tmp_path, ", ".join(name), container)
    assert sampled(path, 6, start=10 / RATE, end=16 / RATE) == [10, 11, 12, 13, 14, 15]
    assert sampled(path, 3, start=21 / RATE) == [21, 22, 23]
    assert sampled(path, 3, end=3 / RATE) == [0, 1, 2]
    with pytest.raises(MediaError, match="no frame between"):
        sampled(path, 3, start=1.0, end=2.0)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_the_clock_of_a_file_starts_with_its_first_track(container: str, tmp_path: Path) -> None:
    """The picture starts 0.4 s after the sound, as in a cut without new encoding."""
    times = [400 + 40 * number for number in range(COUNT)]
    path = write_clip(
        tmp_path / f"a.{container}", numbered(COUNT, 64, 64), rate=RATE, times=times, sound=tone(1.4)[None]
    )
    assert sampled(path, 5, start=0.6, end=0.8) == [5, 6, 7, 8, 9]
    with pytest.raises(MediaError, match="no frame between"):
        sampled(path, 5, end=0.3)


def test_an_edit_list_that_ends_early_hides_the_rest(tmp_path: Path) -> None:
    path = only_first(written(tmp_path, "h264", "mp4"), 14)
    assert sampled(path, 14) == list(range(14))
    assert sampled(path, 4, start=10 / RATE) == [10, 11, 12, 13]
    with pytest.raises(MediaError, match="no frame between"):
        sampled(path, 4, start=15 / RATE)
    assert_reads_as_ffmpeg(path)


def test_sound_that_is_longer_than_the_picture_is_no_truncation(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", numbered(COUNT, 64, 64), rate=RATE, sound=tone(9.0)[None])
    assert sampled(path, COUNT) == list(range(COUNT))


def test_an_avi_whose_header_was_never_completed_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "mpeg4", "avi")
    content = bytearray(path.read_bytes())
    content[4:8] = content[content.index(b"movi") - 4 : content.index(b"movi")] = b"\xff" * 4
    content[content.index(b"strh") + 40 : content.index(b"strh") + 44] = b"\0\0\0\x40"  # number of frames
    path.write_bytes(content[: content.index(b"idx1")])
    assert sampled(path, COUNT) == list(range(COUNT))


def test_frames_that_an_avi_drops_are_no_truncation(tmp_path: Path) -> None:
    times = [100 * number for number in range(COUNT)]
    path = write_clip(
        tmp_path / "a.avi", numbered(COUNT, 64, 64), "mjpeg", rate=RATE, times=times, options={"strict": "-1"}
    )
    assert sampled(path, COUNT) == list(range(COUNT))
    assert sampled(path, 3, start=1.0, end=1.3) == [10, 11, 12]


@pytest.mark.parametrize("container", ["avi", "mkv"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused_by_the_size_that_its_header_states(
    container: str, share: float, tmp_path: Path
) -> None:
    path = written(tmp_path, "mpeg4, no b", container)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MediaError, match="truncated: its header states"):
        sampled(path, 4)


def test_a_picture_of_changing_size_comes_back_in_one(tmp_path: Path) -> None:
    small, large = (
        write_clip(tmp_path / f"{side}.ts", numbered(8, side, side), "mpeg2video", rate=RATE) for side in (64, 96)
    )
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert sampled(path, 15) == [*range(7), *range(8)]  # FFmpeg loses the frame at the joint


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(COUNT, 64, 64), rate=RATE)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        cover, stream = (
            target.add_stream("mjpeg", rate=RATE),
            target.add_stream_from_template(source.streams.video[0]),
        )
        cover.height = cover.width = 64
        cover.pix_fmt, cover.disposition = "yuvj420p", Disposition.attached_pic
        target.mux(cover.encode(av.VideoFrame(64, 64, "yuvj420p")))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert sampled(tmp_path / "b.mp4", COUNT) == list(range(COUNT))
