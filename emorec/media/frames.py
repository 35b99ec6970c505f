"""Decoders of video: decord, and PyAV where decord has no wheel or fails on a file.

Both give the same pixels: they number frames in display order, and scale and rotate them in the same way.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emorec.media.resizing import Frames, resized
from emorec.media.source import MediaError, Reader, open_container, reason_of

SMALLEST = 64  # pixels; decord does not reliably scale to fewer
LATE_FRAMES = 2  # number of frames at the end that a decoder may not return
SHARE_OF_STATED = 0.9  # a header may state some more frames than there are

Size = tuple[int, int]  # height, width


class DecodingError(Exception):
    """A decoder cannot decode a file; another one may be able to."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the header of a file states about its video track.

    Attributes:
        size: stored height and width, before rotation.
        frames: number of frames; 0 if the header does not state it.
        seconds: length of the file; 0 if the header does not state it.
        deep: whether colours have more than 8 bits; the decoders round them differently.
    """

    size: Size
    frames: int
    seconds: float
    deep: bool


class FrameReader(Protocol):
    """An open video.

    Attributes:
        size: height and width of a frame as shown, after rotation.
        starts: (N,) time of each frame, seconds since the first.
    """

    size: Size
    starts: NDArray[np.float64]

    def read(self, indices: NDArray[np.int64], size: Size | None = None) -> Frames:
        """Frames (len(indices), *size, 3) of ascending indices; `size` is height and width, `None` for the frames' own.

        Raises:
            DecodingError: a frame cannot be decoded.
        """


def picture_of(path: Path) -> Picture:
    """Reads the header of a file.

    Raises:
        MediaError: the file is not a video.
    """
    with open_container(path, lambda reason: MediaError(f"the video is not decodable: {reason}")) as container:
        if not container.streams.video:
            raise MediaError("the file has no video track")
        stream = container.streams.video[0]
        pixels = stream.codec_context.format
        picture = Picture(
            size=(int(stream.height), int(stream.width)),
            frames=int(stream.frames or 0),
            seconds=(container.duration or 0) / 1e6,  # from microseconds
            deep=pixels is not None and any(part.bits > 8 for part in pixels.components),
        )
    if not all(picture.size):
        raise MediaError("the video states no picture size")
    return picture


def _scales_itself(shown: Size, stored: Size, wanted: Size) -> bool:
    """Whether the decoder scales while it decodes: neither frames rotated by 90° nor to few pixels."""
    return shown == stored and min(wanted) >= SMALLEST


class DecordFrames:
    """A video opened by decord."""

    def __init__(self, path: Path, picture: Picture) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise DecodingError(f"decord is not installed: {reason_of(error)}") from error
        if picture.deep:
            raise DecodingError("its colours have more than 8 bits")
        self._path, self._picture = path, picture
        self._errors = (decord.DECORDError, RuntimeError, IndexError)
        try:
            self._reader: Any = self._open()
            height, width = self._reader[0].shape[:2]  # as shown: decord rotates clips as their header says
            starts = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0].astype(np.float64)
        except self._errors as error:
            raise DecodingError(reason_of(error)) from error
        self.size: Size = (height, width)
        self.starts: NDArray[np.float64] = starts
        if starts[0] < 0 or not (np.diff(starts) >= 0).all():
            # in containers without times, and in clips cut without re-encoding; decord then returns other frames
            raise DecodingError("the times of the frames are not in order")

    def _open(self, **scaling: int) -> Any:
        import decord

        return decord.VideoReader(str(self._path), num_threads=1, **scaling)

    def read(self, indices: NDArray[np.int64], size: Size | None = None) -> Frames:
        scaling: dict[str, int] = {}
        if size is not None and _scales_itself(self.size, self._picture.size, size):
            scaling = {"height": size[0], "width": size[1]}
        reader, self._reader = self._reader, None  # a reader that is kept goes on decoding in a thread of its own
        try:
            if scaling or reader is None:
                del reader
                reader = self._open(**scaling)
            frames: Frames = reader.get_batch(indices).asnumpy()
        except self._errors as error:
            raise DecodingError(reason_of(error)) from error
        return frames if scaling or size is None else resized(frames, size)


class AvFrames:
    """A video opened by PyAV."""

    def __init__(self, path: Path, picture: Picture) -> None:
        self._path, self._picture = path, picture
        self.starts: NDArray[np.float64] = self._times()
        if len(self.starts) == 0:
            raise DecodingError("it has no frame")
        with self._decoding() as decoded:
            first = next(decoded, None)
        if first is None:
            raise DecodingError("no frame can be decoded")
        self._turns = round(first.rotation / 90) % 4  # quarters, counterclockwise
        self.size: Size = (first.height, first.width) if self._turns % 2 == 0 else (first.width, first.height)

    def _times(self) -> NDArray[np.float64]:
        """Time of each frame, seconds, from the packets' headers."""
        times, corrupt, packets = [], False, 0
        with open_container(self._path, DecodingError) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                time = packet.dts if packet.pts is None else packet.pts
                if packet.size and time is not None:
                    packets, corrupt = packets + 1, bool(packet.is_corrupt)
                    times += [] if packet.is_discard else [time]
            scale = float(stream.time_base)
        if corrupt:
            raise DecodingError("it is truncated: its last packet is cut off")
        if packets < SHARE_OF_STATED * self._picture.frames:
            raise DecodingError(f"it is truncated: expected {self._picture.frames} frames, got {packets}")
        seconds = (np.sort(np.array(times, np.float64)) - min(times, default=0)) * scale
        return seconds.astype(np.float32).astype(np.float64)  # the precision of decord

    @contextmanager
    def _decoding(self) -> Iterator[Iterator[Any]]:
        """Yields the decoded frames; errors of PyAV within the block are decoding errors."""
        with open_container(self._path, DecodingError) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container.decode(stream)

    def read(self, indices: NDArray[np.int64], size: Size | None = None) -> Frames:
        if size is not None and not _scales_itself(self.size, self._picture.size, size):
            return resized(self.read(indices), size)
        wanted, last = set(indices.tolist()), int(indices.max())
        pixels: dict[int, Frames] = {}
        graph, frame, index = None, None, -1

        def convert(frame: Any) -> Frames:
            nonlocal graph
            graph = graph or _filter_graph(frame, size, upside_down=self._turns == 2)
            graph.push(frame)
            converted: Frames = graph.pull().to_ndarray()  # (H, W, 3)
            return converted

        with self._decoding() as decoded:
            for index, frame in enumerate(decoded):
                if index in wanted:
                    pixels[index] = convert(frame)
                if index >= last:
                    break
            if frame is None or index + LATE_FRAMES < last:
                raise DecodingError(f"expected {len(self.starts)} frames, got {index + 1}")
            for missing in wanted - pixels.keys():
                pixels[missing] = convert(frame)
        frames = np.stack([pixels[index] for index in indices.tolist()])  # (N, H, W, 3)
        return np.ascontiguousarray(np.rot90(frames, self._turns, axes=(1, 2))) if self._turns % 2 else frames


def _filter_graph(frame: Any, size: Size | None, *, upside_down: bool) -> Any:
    """The FFmpeg filters that decord uses: they convert frames like `frame` to RGB of one size."""
    import av.filter

    height, width = size or (frame.height, frame.width)
    graph = av.filter.Graph()
    parts = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base),
        *(graph.add(name) for name in (("vflip", "hflip") if upside_down else ())),
        graph.add("scale", f"{width}:{height}:flags=bilinear"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for one, other in itertools.pairwise(parts):
        one.link_to(other)
    graph.configure()
    return graph


FRAME_READERS: dict[Reader, Callable[[Path, Picture], FrameReader]] = {"decord": DecordFrames, "av": AvFrames}
