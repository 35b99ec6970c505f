"""Frames of unusual clips, as real corpora have them; decord gives the same wherever it is let."""

import builtins
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emorec.media.frames import AvFrames, DecordFrames
from emorec.media.sampling import decode_frames
from emorec.media.source import MediaError, Source
from emorec.media.video import VideoSettings, read_video
from emorec.media.video_track import read_track
from tests.conftest import tone
from tests.media.clips import boxes_of, claiming, index_first, numbered, numbers_of, turned, without_first, write_clip

pytestmark = pytest.mark.slow

Frames = NDArray[np.uint8]
GAPS = np.random.default_rng(0).integers(20, 300, 24)
READERS: tuple[Any, ...] = ("decord", "av")


def read(path: Path, reader: Any = None, *, frames: int = 6, size: int = 80, **source: Any) -> Frames:
    settings = VideoSettings(frames=frames, size=size)
    return read_video(Source(modality="video", path=path, **source), settings, reader=reader)


CLIPS: dict[str, Callable[[Path], Path]] = {
    "h264": lambda folder: write_clip(folder / "a.mp4", numbered()),
    "h264, bidirectional, many key frames": lambda folder: write_clip(
        folder / "a.mp4", numbered(), options={"g": "5", "bf": "3"}
    ),
    "h264, odd size": lambda folder: write_clip(folder / "a.mp4", numbered(height=104, width=144)),
    "variable frame rate": lambda folder: write_clip(
        folder / "a.mp4", numbered(), rate=30, times=np.cumsum(GAPS).tolist()
    ),
    "turned once": lambda folder: turned(write_clip(folder / "a.mp4", numbered()), 1),
    "upside down": lambda folder: turned(write_clip(folder / "a.mp4", numbered()), 2),
    "turned thrice": lambda folder: turned(write_clip(folder / "a.mp4", numbered()), 3),
    "one frame": lambda folder: write_clip(folder / "a.mp4", numbered(1)),
    "flv": lambda folder: write_clip(folder / "a.flv", numbered(), "flv"),
    "flv, h264": lambda folder: write_clip(folder / "a.flv", numbered()),
    "matroska": lambda folder: write_clip(folder / "a.mkv", numbered()),
    "with sound": lambda folder: write_clip(folder / "a.mp4", numbered(), sound=tone(2.4)[None]),
}


@pytest.mark.parametrize("segment", [{}, {"start": 0.35, "end": 1.2}, {"start": 0.5}, {"end": 0.7}], ids=str)
@pytest.mark.parametrize("name", CLIPS)
def test_both_readers_give_the_same_pixels(name: str, segment: dict[str, float], tmp_path: Path) -> None:
    path = CLIPS[name](tmp_path)
    if name == "one frame" and segment.get("start"):
        pytest.skip("ends before the segment starts")
    for size, crop in ((48, None), (80, "left"), (80, "right")):  # below 64 pixels decord does not scale
        one, other = (read(path, reader, size=size, crop=crop, **segment) for reader in READERS)
        assert one.shape == (6, size, size, 3)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CLIPS)
def test_both_readers_agree_on_when_each_frame_is_shown(name: str, tmp_path: Path) -> None:
    path = CLIPS[name](tmp_path)
    track = read_track(path)
    assert track.doubt_about_decord() == ""
    one, other = DecordFrames(path, track), AvFrames(path, track)
    assert one.size == other.size
    np.testing.assert_array_equal(one.starts, other.starts)
    assert len(one.starts) == (1 if name == "one frame" else 24)


@pytest.mark.parametrize("reader", READERS)
def test_the_times_of_a_variable_frame_rate_decide_which_frames_a_segment_holds(tmp_path: Path, reader: Any) -> None:
    path = CLIPS["variable frame rate"](tmp_path)
    shown = (np.cumsum(GAPS) - GAPS[0]) / 1000  # seconds since the first frame
    first, last = 9, 16
    segment = {"start": float(shown[first]) - 0.004, "end": float(shown[last]) - 0.004}
    assert numbers_of(read(path, reader, frames=last - first, **segment)) == list(range(first, last))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_clip_is_shown_upright(tmp_path: Path, reader: Any, quarters: int) -> None:
    """Turned as the header says: the left half, which tells the number, goes up, right or down with the clock."""
    straight = read(write_clip(tmp_path / "a.mp4", numbered(height=96, width=96)), reader, size=96).astype(int)
    result = read(turned(tmp_path / "a.mp4", quarters), reader, size=96).astype(int)
    expected = np.rot90(straight, -quarters, axes=(1, 2))
    assert np.abs(result - expected).mean() < 1
    assert np.abs(result - straight).mean() > 20


def test_frames_that_an_edit_list_cuts_off_are_not_shown(tmp_path: Path) -> None:
    path = without_first(write_clip(tmp_path / "a.mp4", numbered(), options={"g": "24"}), 5)
    with pytest.raises(MediaError, match="not known to decode it exactly: an edit list hides frames"):
        read(path, "decord")
    assert numbers_of(read(path, frames=19)) == list(range(5, 24))


def test_an_avi_that_states_no_times_is_read_in_the_order_of_its_frames(tmp_path: Path) -> None:
    options = {"bf": "2", "g": "8", "qmax": "3", "b": "4000000"}
    path = write_clip(tmp_path / "a.avi", numbered(), "mpeg4", options=options)
    with pytest.raises(MediaError, match="not known to decode it exactly: mpeg4 in avi"):
        read(path, "decord")
    assert numbers_of(read(path, frames=24)) == list(range(24))


def test_pyav_reads_where_decord_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = CLIPS["h264"](tmp_path)
    options: Any = {"start": None, "end": None, "count": 6, "size": 80, "crop": None}
    expected, _ = decode_frames(path, reader="decord", **options)
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "decord":
            raise ImportError("no wheel for this machine")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    np.testing.assert_array_equal(decode_frames(path, reader="av", **options)[0], expected)
    with pytest.raises(MediaError, match="decord is not installed: no wheel for this machine"):
        decode_frames(path, reader="decord", **options)


@pytest.mark.parametrize("reader", [None, *READERS])
@pytest.mark.parametrize(("start", "end"), [(50.0, 60.0), (1.0, 0.5), (9.0, None)])
def test_a_segment_after_the_end_is_refused(tmp_path: Path, reader: Any, start: float, end: float | None) -> None:
    with pytest.raises(MediaError, match="no frame between"):
        read(CLIPS["h264"](tmp_path), reader, start=start, end=end)


@pytest.mark.parametrize("reader", [None, *READERS])
def test_a_header_that_states_three_hours_is_refused_at_once(tmp_path: Path, reader: Any) -> None:
    path = claiming(write_clip(tmp_path / "a.mp4", numbered(20)), 10_800, by="count")
    started = time.monotonic()
    with pytest.raises(MediaError, match="truncated"):
        read(path, reader)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("reader", [None, *READERS])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_truncated_clip_is_refused(tmp_path: Path, reader: Any, share: float) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MediaError, match="not decodable"):
        read(path, reader)


@pytest.mark.parametrize("reader", [None, *READERS])
@pytest.mark.parametrize("share", [0.4, 0.9, 0.97])
def test_a_truncated_clip_whose_index_comes_first_is_refused(tmp_path: Path, reader: Any, share: float) -> None:
    path = index_first(write_clip(tmp_path / "a.mp4", numbered()))
    assert read(path, reader).shape == (6, 80, 80, 3)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MediaError, match="not decodable"):
        read(path, reader, frames=24)


def test_a_last_packet_that_is_cut_off_is_noticed_before_any_is_decoded(tmp_path: Path) -> None:
    path = index_first(write_clip(tmp_path / "a.mp4", numbered()))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(MediaError, match=r"truncated: its header states \d+ bytes, it has \d+"):
        read_track(path)


@pytest.mark.parametrize("reader", [None, *READERS])
def test_a_clip_whose_content_is_garbage_is_refused(tmp_path: Path, reader: Any) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered())
    content = bytearray(path.read_bytes())
    start = boxes_of(content, b"mdat")[0] + 4
    garbage = np.random.default_rng(0).integers(0, 255, boxes_of(content, b"moov")[0] - 4 - start, dtype=np.uint8)
    content[start : start + len(garbage)] = garbage.tobytes()
    path.write_bytes(content)
    with pytest.raises(MediaError, match="not decodable"):
        read(path, reader)


def test_a_mp4_named_avi_is_read(tmp_path: Path) -> None:
    path = CLIPS["h264"](tmp_path)
    expected = read(path)
    np.testing.assert_array_equal(read(path.rename(tmp_path / "b.avi")), expected)
