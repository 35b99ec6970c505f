"""What the header and the packets of a video track say about its frames, without decoding them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.media.source import MICROSECONDS, MediaError, clock_start, open_container
from emorec.storage.regular_files import open_regular

MOST_PIXELS = 1 << 26  # of a frame: 8192 by 8192
SHARE_OF_FILE = 0.8  # share of the stated length that must have packets
HEAD = 4096  # bytes that hold what a header states of the file
PACKET_SECONDS = 1.0  # a packet may last this long
AVI_SLACK = 64  # bytes by which writers of AVI err
UNKNOWN_SIZE = 0x7FFFFFFF  # what headers state at least that are not completed
SEGMENT = b"\x18\x53\x80\x67"  # of Matroska; its size follows
STATE_LENGTHS = frozenset({"mov", "matroska", "flv", "asf", "mxf"})  # containers that state it instead of guessing
STATE_TIMES = STATE_LENGTHS | {"avi", "mpegts", "mpeg"}  # containers that state when each packet's frame is shown
INDEXED = frozenset({"mov", "matroska"})
DECORD_CONTAINERS = frozenset({"mov", "matroska", "flv"})
DECORD_CODECS = frozenset({"h264", "flv1"})  # of others its older FFmpeg rounds pixels otherwise
# Codecs in which no frame shown after a key frame refers to one before it, and each packet holds one frame. In H.264
# and HEVC the key frame's own type decides.
CODECS_WITH_EXACT_KEYS = frozenset(("mpeg4", "mpeg1video", "mpeg2video", "h263", "flv1", "vp9", "av1", "theora"))
CODECS_WITH_EXACT_KEYS |= {"mjpeg", "prores", "dnxhd", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "ffv1", "v210"}
MPEG4_FRAME = b"\x00\x00\x01\xb6"  # its type follows in two bits: I, P, B, S
KEPT = 16  # tracks that are not read again
H264_IDR, HEVC_INTRA = frozenset({5}), frozenset(range(16, 24))


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbering:
    """The frames of a track, in the order in which they are shown."""

    ticks: NDArray[np.int64]  # (N,) times
    entries: NDArray[np.int64]  # (N,) number of the packet at which decoding starts
    firsts: NDArray[np.int64]  # (N,) number of the first frame that is exact if decoding starts there
    safe: int = 0  # number of a frame that is decoded exactly if any is


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoTrack:
    """The first video track of a file."""

    container: str  # FFmpeg's first name of the format
    codec: str  # FFmpeg's name of the codec
    size: tuple[int, int]  # stored height and width, before rotation
    alone: bool  # whether the file has no other
    deep: bool  # whether colours have more than 8 bits; decord rounds them otherwise
    tick: float  # seconds
    zero: int  # ticks at time 0 of the file's clock
    is_timed: bool  # whether each packet has a time
    times: NDArray[np.int64]  # (P,) ticks at which the frames of the packets are shown
    shown: NDArray[np.bool_]  # (P,) false where an edit list hides the frame
    keys: NDArray[np.bool_]  # (P,) where a frame refers to no other, by its container
    starts: NDArray[np.bool_]  # (P,) where decoding can start: all frames shown from there on are exact

    @property
    def is_indexed(self) -> bool:
        """Whether FFmpeg finds the packet of a time without reading all before."""
        return self.container in INDEXED

    def seconds(self, ticks: NDArray[np.int64]) -> NDArray[np.float64]:
        """On the file's clock."""
        return (ticks - self.zero).astype(np.float64) * self.tick

    def numbering(self) -> Numbering:
        """Numbers the shown frames by their times."""
        packets = np.flatnonzero(self.shown)
        packets = packets[np.argsort(self.times[packets], kind="stable")]  # (N,), of each frame
        ticks, starts = self.times[packets], np.flatnonzero(self.starts)
        before = np.searchsorted(starts, packets, side="right") - 1  # (N,), the last start before each; -1 for none
        # a packet after a start may hold a frame that is shown before it and refers to frames before it
        while len(starts) and (early := (before >= 0) & (self.times[starts[before]] > ticks)).any():
            before -= early
        exact = before >= 0
        entries = np.append(starts, 0)[before]
        firsts = np.where(exact, np.searchsorted(ticks, self.times[entries]), 0)
        safe = int(np.argmax(exact)) if exact.any() else 0
        return Numbering(ticks=ticks, entries=entries, firsts=firsts, safe=safe)

    def doubt_about_decord(self) -> str:
        """Why decord may give other frames than FFmpeg; empty where it is known to give the same."""
        earliest = np.minimum.accumulate(self.times[::-1])[::-1]  # (P,), of all packets from there on
        is_open = (earliest < self.times)[self.starts].any() or (self.keys & ~self.starts).any()
        known = self.container in DECORD_CONTAINERS and self.codec in DECORD_CODECS
        doubts = {
            f"{self.codec} in {self.container}": not known,
            "the file has several video tracks": not self.alone,
            "its colours have more than 8 bits": self.deep,
            "an edit list hides frames": not self.shown.all(),
            "the times of the frames are not in order": not self.is_timed or (np.diff(np.sort(self.times)) == 0).any(),
            "frames refer to others across a key frame": is_open or not self.starts[0],
        }
        return next((reason for reason, holds in doubts.items() if holds), "")


def stated_seconds(path: Path) -> float:
    """The length of a file by its header; 0 if it states none."""
    with open_container(path, _undecodable) as container:
        return _seconds(container)


def read_track(path: Path) -> VideoTrack:
    """Reads the header and the packets of a file, once for all segments that are read one after another.

    Raises:
        MediaError: the file is not a video, or truncated.
        OSError: the file is missing or may not be read.
    """
    status = path.stat()
    return _read_track(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=KEPT)
def _read_track(path: Path, *_: int) -> VideoTrack:
    with open_container(path, _undecodable) as container:
        stream = _video_stream(container)
        codec = stream.codec_context
        name, kind = _format(container), str(codec.codec.canonical_name)
        is_start = _start_test(kind, codec.extradata) if name in STATE_TIMES else _never
        ticks = {item.index: float(item.time_base or 0) for item in container.streams}
        times: list[int | None] = []
        flags: list[tuple[bool, bool, bool]] = []  # shown, key, start
        end, is_cut, has_times, has_b = 0.0, False, True, False
        for packet in full_packets(container.demux()):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                end = max(end, (time + (packet.duration or 0)) * ticks[packet.stream_index])
            if packet.stream_index == stream.index:
                times.append(time)
                flags.append((not packet.is_discard, packet.is_keyframe, packet.is_keyframe and is_start(packet)))
                has_times &= packet.pts is not None
                has_b |= kind != "mpeg4" or (name == "avi" and _holds_b(bytes(packet)))
                is_cut = bool(packet.is_corrupt)
        _refuse_truncated(path, container, end - clock_start(container), is_cut)
        if not times:
            raise _undecodable("its video track is empty")
        shown, keys, starts = np.array(flags, np.bool_).reshape(-1, 3).T
        pixels = codec.format
        if not has_times:  # FFmpeg then takes the time at which the next packet is decoded
            times = [*times[1:], *((time or 0) + 1 for time in times[-1:])]
        return VideoTrack(
            container=name,
            codec=kind,
            size=(int(stream.height), int(stream.width)),
            alone=len(container.streams.video) == 1,
            deep=pixels is not None and any(part.bits > 8 for part in pixels.components),
            tick=ticks[stream.index],
            zero=round(clock_start(container) / ticks[stream.index]),
            is_timed=None not in times,
            times=np.array([time or 0 for time in times], np.int64),
            shown=shown,
            keys=keys,
            starts=starts & (has_times or not has_b),
        )


def full_packets(packets: Iterable[Any]) -> Iterator[Any]:
    """Leaves out the empty packets that stand for frames that were dropped, and those that end the tracks."""
    return (packet for packet in packets if packet.size)


def _undecodable(reason: str) -> MediaError:
    return MediaError(f"the video is not decodable: {reason}")


def video_streams(container: Any) -> list[Any]:
    """The video tracks of an open file but for pictures that are attached to it, such as the cover of a song."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _video_stream(container: Any) -> Any:
    streams = video_streams(container)
    if not streams:
        raise MediaError("the file has no video track")
    stream = streams[0]
    if stream.codec_context is None:
        raise _undecodable("there is no decoder for its codec")
    if not stream.height or not stream.width:
        raise MediaError("the video states no picture size")
    if stream.height * stream.width > MOST_PIXELS:
        raise MediaError(f"expected a picture of at most {MOST_PIXELS} pixels, got {stream.width} x {stream.height}")
    return stream


def _format(container: Any) -> str:
    return str(container.format.name).split(",")[0]


def _seconds(container: Any) -> float:
    return float((container.duration or 0) / MICROSECONDS)


def _refuse_truncated(path: Path, container: Any, end: float, is_cut: bool) -> None:
    """Compares a file with what its header states. The tracks `end` together; they need not be of one length."""
    name, size = _format(container), path.stat().st_size
    if (stated := _stated_size(path, container)) > size:
        raise _undecodable(f"it is truncated: its header states {stated} bytes, it has {size}")
    if name in STATE_LENGTHS and is_cut:
        raise _undecodable("it is truncated: its last packet is cut off")
    if name in STATE_LENGTHS and end < SHARE_OF_FILE * _seconds(container) - PACKET_SECONDS:
        raise _undecodable(f"it is truncated: its header states {_seconds(container):.2f} s, it ends at {end:.2f} s")


def _stated_size(path: Path, container: Any) -> int:
    """The bytes that a file must have by its header; 0 if it states none."""
    name = _format(container)
    if name == "mov":
        return max((entry.pos + entry.size for entry in video_streams(container)[0].index_entries), default=0)
    with open_regular(path) as stream:
        head = stream.read(HEAD)
    if name == "avi":
        stated = 8 + int.from_bytes(head[4:8], "little")
        return stated - AVI_SLACK if stated < UNKNOWN_SIZE else 0
    offset = head.find(SEGMENT) + len(SEGMENT)
    if name != "matroska" or offset < len(SEGMENT) or not head[offset] > 0:
        return 0
    length = 9 - head[offset].bit_length()  # of the stated size, bytes: as many as there are leading zeros, and one
    unknown = (1 << 7 * length) - 1
    stated = int.from_bytes(head[offset : offset + length], "big") & unknown
    return 0 if stated == unknown else offset + length + stated


def _holds_b(data: bytes) -> bool:
    """Whether a packet of MPEG-4 part 2 holds a frame that refers to a later one, or two frames."""
    first = data.find(MPEG4_FRAME)
    return first < 0 or data[first + 4 : first + 5] >= b"\x80" or data.find(MPEG4_FRAME, first + 4) >= 0


def _never(_: Any) -> bool:
    return False


def _start_test(codec: str, extradata: bytes | None) -> Callable[[Any], bool]:
    """Tells of a key frame's packet whether decoding can start there."""
    if codec in CODECS_WITH_EXACT_KEYS:
        return lambda _: True
    if codec == "h264":
        length = (extradata[4] & 3) + 1 if extradata and extradata[0] == 1 and len(extradata) > 4 else 0
        return lambda packet: _first_slice(bytes(packet), length, lambda byte: byte & 31, range(1, 6)) in H264_IDR
    if codec == "hevc":
        length = (extradata[21] & 3) + 1 if extradata and extradata[0] == 1 and len(extradata) > 21 else 0
        return lambda packet: _first_slice(bytes(packet), length, lambda byte: byte >> 1 & 63, range(32)) in HEVC_INTRA
    return _never


def _first_slice(data: bytes, length: int, type_of: Callable[[int], int], slices: range) -> int | None:
    """The type of the first unit (NAL) of a packet that holds picture; units follow their length or a start code."""
    offset = 0
    while True:
        if length:
            size, start = int.from_bytes(data[offset : offset + length], "big"), offset + length
            offset = start + size
        else:
            offset = data.find(b"\x00\x00\x01", offset)
            start = offset = offset + 3 if offset >= 0 else len(data)
        if start >= len(data):
            return None
        if (kind := type_of(data[start])) in slices:
            return kind
