"""Decoders of video: PyAV, and decord where it is asked for and proven to give the same frames.

A frame's time is its presentation time on the file's clock (`clock_start`). Frames are numbered in that order; those
that an edit list hides have no number.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from emorec.media.resizing import Frames
from emorec.media.source import Reader, open_container, reason_of
from emorec.media.video_track import MOST_PIXELS, Numbering, VideoTrack, full_packets, video_streams

SMALLEST = 64  # pixels; decord does not reliably scale to fewer
FAR = 250  # packets; decoding that starts later does not read the file up to there
SHARE_OF_PACKETS = 0.4  # of the packets that hold a frame, at least; two packets may hold the two fields of one

Size = tuple[int, int]  # height, width


class DecodingError(Exception):
    """A decoder cannot decode a file; another one may be able to."""


class FrameReader(Protocol):
    """An open video.

    Attributes:
        size: height and width of a frame as shown, after rotation.
        starts: (N,) time of each frame, seconds on the file's clock.
        tick: precision of the times, seconds.
    """

    size: Size
    starts: NDArray[np.float64]
    tick: float

    def read(self, indices: NDArray[np.int64], size: Size | None = None) -> Frames:
        """Frames (len(indices), H, W, 3) of ascending indices.

        H × W is `size` where the decoder can scale to it, else the frames' own: always where `size` is `None`.

        Raises:
            DecodingError: a frame cannot be decoded.
        """


def _scales_itself(shown: Size, stored: Size, wanted: Size) -> bool:
    """Whether the decoder scales while it decodes: neither frames rotated by 90° nor to few pixels."""
    return shown == stored and min(wanted) >= SMALLEST


class DecordFrames:
    """A video opened by decord, which gives other frames than FFmpeg for many: it is asked for proven ones only."""

    def __init__(self, path: Path, track: VideoTrack) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise DecodingError(f"decord is not installed: {reason_of(error)}") from error
        if doubt := track.doubt_about_decord():
            raise DecodingError(f"decord is not known to decode it exactly: {doubt}")
        self._path, self._track, self.tick = path.absolute(), track, track.tick  # relative, it may look like a URL
        self._errors = (decord.DECORDError, RuntimeError, IndexError)
        self.starts: NDArray[np.float64] = track.seconds(track.numbering().ticks)
        try:
            self._reader: Any = self._open()
            height, width = self._reader[0].shape[:2]  # as shown: decord rotates clips as their header says
        except self._errors as error:
            raise DecodingError(reason_of(error)) from error
        self.size: Size = (height, width)
        if len(self._reader) != len(self.starts):
            raise DecodingError(f"expected {len(self.starts)} frames, decord counts {len(self._reader)}")

    def _open(self, **scaling: int) -> Any:
        import decord

        return decord.VideoReader(str(self._path), num_threads=1, **scaling)

    def read(self, indices: NDArray[np.int64], size: Size | None = None) -> Frames:
        scaling: dict[str, int] = {}
        if size is not None and _scales_itself(self.size, self._track.size, size):
            scaling = {"height": size[0], "width": size[1]}
        reader, self._reader = self._reader, None  # a reader that is kept goes on decoding in a thread of its own
        try:
            if scaling or reader is None:
                del reader
                reader = self._open(**scaling)
            frames: Frames = reader.get_batch(indices).asnumpy()
        except self._errors as error:
            raise DecodingError(reason_of(error)) from error
        return frames


class AvFrames:
    """A video opened by PyAV, whose frames are those that its packets announce.

    Decoding starts at the last frame before a wanted one that refers to none before it. What is decoded must be what
    was announced.
    """

    verifies: ClassVar[bool] = True

    def __init__(self, path: Path, track: VideoTrack) -> None:
        self._path, self._track, self.tick = path, track, track.tick
        self._numbering = self._numbered()
        if len(self._numbering.ticks) == 0:
            raise DecodingError("no frame can be decoded")
        self.starts: NDArray[np.float64] = track.seconds(self._numbering.ticks)
        first = next(self._frames([self._numbering.safe]))
        self._turns = round(first.rotation / 90) % 4  # quarters, counterclockwise
        self._stored: Size = (first.height, first.width)
        self.size: Size = self._stored if self._turns % 2 == 0 else (first.width, first.height)

    def _numbered(self) -> Numbering:
        if not self._track.is_timed:
            raise DecodingError("its packets state no times")
        return self._track.numbering()

    @contextmanager
    def _opened(self, entry: int = 0) -> Iterator[tuple[Iterator[tuple[int, Any]], Any]]:
        """Yields the packets with their numbers, `None` for the end, and the codec that decodes them.

        Packets before number `entry` may be left out.
        """
        with open_container(self._path, DecodingError) as container:
            stream = video_streams(container)[0]
            codec = stream.codec_context
            codec.thread_count, codec.options = 1, {"max_pixels": str(MOST_PIXELS)}
            packets = self._from(container, stream, entry) if entry >= FAR and self._track.is_indexed else None
            if packets is None:
                packets = enumerate(full_packets(container.demux(stream)))
            yield itertools.chain(packets, [(len(self._track.times), None)]), codec

    def _from(self, container: Any, stream: Any, entry: int) -> Iterator[tuple[int, Any]] | None:
        """The packets from `entry` or before it on; `None`, and back at the start, where seeking misleads."""
        times = self._track.times
        container.seek(int(times[entry]), stream=stream)
        packets = full_packets(container.demux(stream))
        first = next(packets, None)
        numbers = [] if first is None else np.flatnonzero(times == first.pts).tolist()
        if len(numbers) == 1 and numbers[0] <= entry:
            return enumerate(itertools.chain([first], packets), numbers[0])
        container.seek(int(times.min()), stream=stream)
        return None

    def _frames(self, wanted: Sequence[int]) -> Iterator[Any]:
        """Decodes the frames of ascending numbers."""
        numbering, missing = self._numbering, deque(wanted)
        with self._opened(int(numbering.entries[missing[0]])) as (packets, codec):
            decoding, first, index = False, 0, 0  # the numbers of the first exact frame and of the next one
            for number, packet in packets:
                if not decoding:
                    if number < numbering.entries[missing[0]]:
                        continue
                    codec.flush_buffers()
                    decoding, first = True, int(numbering.firsts[missing[0]])
                    index = first
                for frame in _decoded(codec, packet, started=index > 0):
                    time = _time(frame)
                    if index == first > 0 and time is not None and time < numbering.ticks[first]:
                        continue
                    if self.verifies and (index >= len(numbering.ticks) or time not in {None, numbering.ticks[index]}):
                        raise DecodingError("its frames are not those that its packets announce")
                    if index == missing[0]:
                        yield frame
                        missing.popleft()
                        if not missing:
                            return
                    index += 1
                decoding = bool(numbering.entries[missing[0]] <= number)
        raise DecodingError(f"expected {len(numbering.ticks)} frames, got {index}")

    def read(self, indices: NDArray[np.int64], size: Size | None = None) -> Frames:
        if size is None or not _scales_itself(self.size, self._stored, size):
            size = self._stored
        converter = _Converter(size, upside_down=self._turns == 2)
        wanted = sorted(set(indices.tolist()))
        pixels = dict(zip(wanted, map(converter.convert, self._frames(wanted)), strict=True))
        frames = np.stack([pixels[index] for index in indices.tolist()])  # (N, H, W, 3)
        return np.ascontiguousarray(np.rot90(frames, self._turns, axes=(1, 2))) if self._turns % 2 else frames


class CountedAvFrames(AvFrames):
    """A video opened by PyAV, whose frames are those that decoding all of it gives: slow, for packets that mislead."""

    verifies = False

    def _numbered(self) -> Numbering:
        ticks: list[int] = []
        guess = _TimeGuess()
        with self._opened() as (packets, codec):
            for _, packet in packets:
                ticks += [guess.time(frame) for frame in _decoded(codec, packet, started=bool(ticks))]
        announced = int(self._track.shown[np.argmax(self._track.keys) :].sum())
        if len(ticks) < SHARE_OF_PACKETS * announced:
            raise DecodingError(f"expected about {announced} frames, got {len(ticks)}")
        zeros = np.zeros(len(ticks), np.int64)
        return Numbering(ticks=np.maximum.accumulate(np.array(ticks, np.int64)), entries=zeros, firsts=zeros)


def _decoded(codec: Any, packet: Any, *, started: bool) -> list[Any]:
    """The frames that a packet completes; none before the first key frame of a recording that started between two."""
    import av

    try:
        frames: list[Any] = codec.decode(packet)
    except av.InvalidDataError:
        if started:
            raise
        return []
    return frames


def _time(frame: Any) -> int | None:
    """When a frame is shown, ticks: as stated, or else by the order of decoding; `None` where both are unknown."""
    time: int | None = frame.dts if frame.pts is None else frame.pts
    return time


class _TimeGuess:
    """When frames are shown if their stated times may be wrong: FFmpeg's own rule (`guess_correct_pts`).

    Of the stated times and those by the order of decoding, it takes the kind that went backwards less often.
    """

    def __init__(self) -> None:
        self._last: dict[str, int | None] = {"pts": None, "dts": None}
        self._faults = {"pts": 0, "dts": 0}
        self._next = 0

    def time(self, frame: Any) -> int:
        times = {"pts": frame.pts, "dts": frame.dts}
        for kind, other in (("dts", "pts"), ("pts", "dts")):
            time, last = times[kind], self._last[kind]
            if time is not None:
                self._faults[kind] += last is not None and time <= last
                self._last[kind] = time
            elif times[other] is not None:
                self._last[kind] = times[other]
        by_pts = times["pts"] is not None and (times["dts"] is None or self._faults["pts"] <= self._faults["dts"])
        chosen = times["pts"] if by_pts else times["dts"]
        guessed = self._next if chosen is None else int(chosen)
        self._next = guessed + max(1, frame.duration or 0)
        return guessed


class _Converter:
    """Converts frames to RGB of one size, by the FFmpeg filters that decord uses."""

    def __init__(self, size: Size, *, upside_down: bool) -> None:
        self._size, self._upside_down = size, upside_down
        self._graphs: dict[tuple[int, int, str], Any] = {}  # the pictures of a track may change their size

    def convert(self, frame: Any) -> Frames:
        """(H, W, 3)"""
        kind = frame.width, frame.height, frame.format.name
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame)
        self._graphs[kind].push(frame)
        converted: Frames = self._graphs[kind].pull().to_ndarray()
        return converted

    def _graph(self, frame: Any) -> Any:
        import av.filter

        height, width = self._size
        graph = av.filter.Graph()
        parts = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1000)
            ),
            *(graph.add(name) for name in (("vflip", "hflip") if self._upside_down else ())),
            graph.add("scale", f"{width}:{height}:flags=bilinear"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for one, other in itertools.pairwise(parts):
            one.link_to(other)
        graph.configure()
        return graph


Open = Callable[[Path, VideoTrack], FrameReader]
FRAME_READERS: dict[Reader, tuple[Open, ...]] = {"decord": (DecordFrames,), "av": (AvFrames, CountedAvFrames)}
