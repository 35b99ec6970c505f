"""Frames are evenly spaced over the segment, square, and from the side that shows the speaker."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.datasets.demo_synthesis import write_video
from emorec.media.source import MediaError, Source
from emorec.media.video import VideoSettings, read_video
from tests.conftest import tone

Frames = NDArray[np.uint8]
RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def read(path: Path, *, frames: int = 4, size: int = 64, **source: object) -> Frames:
    settings = VideoSettings(frames=frames, size=size)
    return read_video(Source(modality="video", path=path, **source), settings)  # type: ignore[arg-type]


def write(path: Path, frames: Frames, rate: int = 10) -> Path:
    write_video(path, frames, rate, None, 16_000)
    return path


def plain(colour: tuple[int, int, int], height: int = 96, width: int = 96, count: int = 10) -> Frames:
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    frames[:] = colour
    return frames


def rising(count: int = 20) -> Frames:
    """Grey frames, each 10 lighter than the one before: a frame's brightness tells its number."""
    return np.repeat(20 + 10 * np.arange(count, dtype=np.uint8), 96 * 96 * 3).reshape(count, 96, 96, 3)


def numbers_of(frames: Frames) -> list[int]:
    """Which frames of `rising` these are."""
    return [round((float(frame.mean()) - 20) / 10) for frame in frames]


def colour_of(frames: Frames) -> tuple[int, int, int]:
    red, green, blue = frames.reshape(-1, 3).mean(axis=0)
    return int(red), int(green), int(blue)


def is_near(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 15 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("count", "size"), [(1, 64), (4, 96), (16, 224)])
def test_the_shape_is_as_asked_for_and_the_colours_are_red_green_blue(tmp_path: Path, count: int, size: int) -> None:
    frames = read(write(tmp_path / "a.mp4", plain(RED)), frames=count, size=size)
    assert frames.shape == (count, size, size, 3)
    assert frames.dtype == np.uint8
    assert is_near(colour_of(frames), RED)


@pytest.mark.parametrize(
    ("height", "width"), [(96, 96), (96, 144), (144, 96), (90, 160), (720, 1280), (480, 640), (98, 50)]
)
@pytest.mark.parametrize("crop", [None, "left", "right"])
def test_a_picture_of_any_size_comes_back_square(tmp_path: Path, height: int, width: int, crop: str | None) -> None:
    path = write(tmp_path / "a.mp4", plain(GREEN, height, width, count=2))
    for size in (64, 97, 224):
        frames = read(path, frames=2, size=size, crop=crop)
        assert frames.shape == (2, size, size, 3)
        assert is_near(colour_of(frames), GREEN)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_a_small_picture_size_is_read_too(tmp_path: Path, size: int) -> None:
    assert read(write(tmp_path / "a.mp4", plain(BLUE)), size=size).shape == (4, size, size, 3)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17]), (20, list(range(20))), (5, [2, 6, 10, 14, 18])],
)
def test_frames_are_evenly_spaced(tmp_path: Path, count: int, expected: list[int]) -> None:
    assert numbers_of(read(write(tmp_path / "a.mp4", rising()), frames=count)) == expected


def test_a_short_clip_repeats_frames(tmp_path: Path) -> None:
    assert numbers_of(read(write(tmp_path / "a.mp4", rising(2)), frames=4)) == [0, 0, 1, 1]


def test_a_clip_of_one_frame_repeats_it(tmp_path: Path) -> None:
    frames = read(write(tmp_path / "a.mp4", plain(BLUE, count=1)), frames=8)
    assert frames.shape == (8, 64, 64, 3)
    assert is_near(colour_of(frames), BLUE)
    assert all((frame == frames[0]).all() for frame in frames)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.5, 1.0, [5, 6, 7, 8, 9]),
        (None, 0.5, [0, 1, 2, 3, 4]),
        (1.5, None, [15, 16, 17, 18, 19]),
        (1.5, 9.0, [15, 16, 17, 18, 19]),
        (1.0, 2.0, [11, 13, 15, 17, 19]),
    ],
)
def test_a_segment_holds_its_own_frames_only(
    tmp_path: Path, start: float | None, end: float | None, expected: list[int]
) -> None:
    assert numbers_of(read(write(tmp_path / "a.mp4", rising()), frames=5, start=start, end=end)) == expected


@pytest.mark.parametrize(("start", "end"), [(5.0, 6.0), (1.0, 0.5), (9.0, None)])
def test_a_segment_without_frames_is_refused(tmp_path: Path, start: float, end: float | None) -> None:
    with pytest.raises(MediaError, match=r"no frame between \d"):
        read(write(tmp_path / "a.mp4", rising()), start=start, end=end)


@pytest.mark.parametrize(("height", "width"), [(96, 192), (160, 192), (64, 192), (96, 202)])
@pytest.mark.parametrize(("crop", "colour"), [("left", RED), ("right", BLUE)])
def test_a_side_of_a_side_by_side_video_shows_nothing_of_the_other(
    tmp_path: Path, height: int, width: int, crop: str, colour: tuple[int, int, int]
) -> None:
    frames = plain(RED, height, width, count=4)
    frames[:, :, width // 2 :] = BLUE
    result = read(write(tmp_path / "a.mp4", frames), crop=crop, size=80)
    assert result.shape == (4, 80, 80, 3)
    inner = result[:, :, 3:-3]  # at the border of the halves the codec mixes colours
    assert is_near(colour_of(inner[:, :, :8]), colour)
    assert is_near(colour_of(inner[:, :, -8:]), colour)


@pytest.mark.parametrize("wide", [True, False])
def test_a_picture_that_is_not_square_is_cut_from_the_middle_and_keeps_its_aspect(tmp_path: Path, wide: bool) -> None:
    """A green square in the middle of a red picture, half as large as the shorter side."""
    frames = plain(RED, 128, 256, count=4)
    frames[:, 32:96, 96:160] = GREEN
    if not wide:
        frames = np.ascontiguousarray(frames.transpose(0, 2, 1, 3))
    result = read(write(tmp_path / "a.mp4", frames), size=128)[0].astype(int)
    green = result[:, :, 1] > result[:, :, 0]
    rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    for indices in (rows, columns):
        assert abs(indices[0] - 32) <= 2
        assert abs(indices[-1] - 95) <= 2


def test_a_clip_of_a_phone_held_upright_is_turned_and_keeps_its_aspect(tmp_path: Path) -> None:
    """Such a clip is stored lying down, with a matrix in its track header that says how to turn it."""
    frames = plain(RED, 96, 192, count=4)
    frames[:, 24:72, 72:120] = GREEN
    path = write(tmp_path / "a.mp4", frames)
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 44
    assert struct.unpack(">9i", content[matrix : matrix + 36])[:5] == (1 << 16, 0, 0, 0, 1 << 16)
    a_quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 96 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = a_quarter_turn
    path.write_bytes(content)
    result = read(path, size=96)[0].astype(int)
    green = result[:, :, 1] > result[:, :, 0]
    for indices in (np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))):
        assert abs(indices[0] - 24) <= 2
        assert abs(indices[-1] - 71) <= 2


def test_the_picture_of_a_video_with_sound_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", rising(), 10, tone(2.0), 16_000)
    assert numbers_of(read(tmp_path / "a.mp4", frames=4)) == [2, 7, 12, 17]


def truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95])
def test_a_truncated_video_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(MediaError, match="the video is not decodable"):
        read(truncated(write(tmp_path / "a.mp4", rising()), share))


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_truncated_video_whose_index_comes_first_is_refused(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 96, 96, 3), dtype=np.uint8)
    path = write(tmp_path / "index_last.mp4", noise)
    with (
        av.open(str(path)) as whole,
        av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "+faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux():
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert read(tmp_path / "a.mp4").shape == (4, 64, 64, 3)
    with pytest.raises(MediaError, match="the video is not decodable"):
        read(truncated(tmp_path / "a.mp4", share))


def test_an_empty_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match="the file is empty"):
        read(tmp_path / "a.mp4")


def test_text_with_the_name_of_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("<html>404 Not Found</html>\n" * 50)
    with pytest.raises(MediaError, match="the video is not decodable"):
        read(tmp_path / "a.mp4")


def test_a_file_without_a_picture_is_reported(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        sound = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        sound.sample_rate = 16_000
        container.mux(track.encode(sound))
        container.mux(track.encode())
    with pytest.raises(MediaError, match="no video track"):
        read(tmp_path / "a.mp4")


def test_a_missing_file_is_an_os_error_and_not_a_media_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        read(tmp_path / "missing.mp4")
    assert not isinstance(caught.value, MediaError)
