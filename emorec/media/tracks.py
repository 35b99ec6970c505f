"""Decodes sound tracks by FFmpeg, and places their samples by the times at which they are heard.

A segment is decoded alone where its place is certain: times are finer than samples, or packets of one length lie on a
grid. The container finds its packets, or those before them are read and not decoded. Any other track is decoded from
its start, and what is before the segment is not kept.
"""

import ctypes
import itertools
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emorec.media.mixing import NOTHING, Mixer
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, clock_start, open_container, packets_end, reason_of

HIGHEST_RATE = 768_000  # Hz
LATEST = 1e9  # seconds into a file; a later time is as good as this one, and its sample has too many digits
GAP_SECONDS = 0.015  # a frame that is later than this follows after silence; less is rounding, or jitter
PREROLL_SECONDS = 1.0  # decoded before a segment: by then, the decoder's state is that of a decoding from the start
DAMAGED_SHARE = 0.1  # share of the packets that may be damaged, as tags between joined files are
SHARE_OF_TRACK = 0.99  # share of a sound track's stated length that must be there
SHARE_OF_FILE = 0.95  # share of the file's stated length that some track must reach, where the track's is not stated
PACKETS_SECONDS = 0.25  # a container may state a few more packets than there are
# FFmpeg's names of containers
FINDS_PACKETS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac"})  # exactly, by their times
STATES_LENGTH = FINDS_PACKETS | {"aiff", "asf", "au", "caf", "flv", "tta"}  # others estimate it, or count what is empty
OWN_ORDER = " channels ("  # in FFmpeg's name of a layout, before the list of its channels
# FFmpeg's names of codecs
OF_ONE_LENGTH = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})  # packets, but for the last one
FORGETTING = ("pcm_", "vorbis")  # their packets differ in length, and depend on few before them


def sample_at(seconds: float | None, rate: int, default: int) -> int:
    """Number of the sample at a time; `default` for `None`."""
    return default if seconds is None else round(min(max(seconds, 0.0), LATEST) * rate)


def too_long(maximum_seconds: float) -> MediaError:
    """The error of sound that exceeds the limit."""
    limit = f"{maximum_seconds:g} s (encoder.audio.media.maximum_seconds)"
    return MediaError(f"the sound is too long: expected at most {limit}, got more")


def undecodable(reason: str) -> MediaError:
    """The error of a sound track that FFmpeg cannot decode."""
    return MediaError(f"the sound track is not decodable: {reason}")


def decode_track(path: Path, start: float | None, end: float | None, maximum_seconds: float) -> tuple[Waveform, int]:
    """The sound of a file from `start` to `end` (seconds): mono (samples,), and its rate in Hz.

    Raises:
        MediaError: the sound is not decodable, truncated, or longer than `maximum_seconds`.
    """
    for may_skip in (True, False):
        with open_container(path, undecodable) as container:
            track = Track.of(path, container)
            first, last = sample_at(start, track.rate, 0), sample_at(end, track.rate, sys.maxsize)
            placed = _placed(track, first - round(PREROLL_SECONDS * track.rate) if may_skip else 0)
            if placed is not None:
                return _collected(track, placed, Segment(first, last), maximum_seconds), track.rate
    raise AssertionError("nothing was skipped")


@dataclass(frozen=True, kw_only=True)
class Track:
    """The first sound track of an open file."""

    path: Path  # the file
    container: Any  # PyAV's container
    stream: Any  # PyAV's stream
    rate: int  # Hz
    unit: float  # samples in a unit of the stream's times; may be less than one
    zero: float  # the file's time 0, in samples after the stream's

    @classmethod
    def of(cls, path: Path, container: Any) -> "Track":
        """The track of a container.

        Raises:
            MediaError: there is none, or its codec or rate is none.
        """
        if not container.streams.audio:
            raise MediaError("the video has no sound track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise undecodable("its codec is not known")
        rate = int(stream.rate or 0)
        if not 0 < rate <= HIGHEST_RATE:
            raise undecodable(f"expected a sample rate of 1 to {HIGHEST_RATE} Hz, got {rate}")
        unit, zero = float(stream.time_base * rate), clock_start(container) * rate
        return cls(path=path, container=container, stream=stream, rate=rate, unit=unit, zero=zero)

    @property
    def container_name(self) -> str:
        return str(self.container.format.name)

    @property
    def codec_name(self) -> str:
        return str(self.stream.codec_context.codec.canonical_name)

    def position(self, time: int) -> int:
        """Number of the sample at a time of the stream."""
        return round(time * self.unit - self.zero)

    def time(self, position: int) -> int:
        """Time of the stream at a sample."""
        return math.floor((position + self.zero) / self.unit)

    def is_before(self, packet: Any, position: int) -> bool:
        """Whether a packet begins before a sample."""
        return packet.pts is not None and self.position(packet.pts) < position


def _decoded(packets: Iterator[Any]) -> Iterator[Any]:
    """PyAV's frames of packets; those that are damaged are left out.

    Raises:
        MediaError: too many are damaged, or their channels are in an order of their own.
    """
    import av

    damaged = 0
    for number, packet in enumerate(packets):
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            damaged += 1
            if damaged > 1 + DAMAGED_SHARE * number:
                raise undecodable(reason_of(error)) from error
        else:
            _refuse_own_order(frames)
            yield from frames


def _refuse_own_order(frames: list[Any]) -> None:
    """Refuses frames whose channels are in an order of their own, as in some QuickTime files.

    PyAV frees the description of such an order twice, which ends the process: it is kept from freeing it at all.
    """
    layouts = [frame.layout for frame in frames if OWN_ORDER in frame.layout.name]
    for layout in layouts:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    if layouts:
        raise undecodable(f"expected channels in a usual order, got {layouts[0].name}")


def _placed(track: Track, skipped: int) -> Iterator[tuple[int, Waveform]] | None:
    """As `Timeline.placed`, without packets of the first samples; `None` if it is not certain what is to be skipped."""
    import av

    timeline, packets = Timeline(track), track.container.demux(track.stream)
    if skipped <= 0:
        return timeline.placed(_decoded(packets))
    if len(list(itertools.islice(timeline.placed(_decoded(packets)), 2))) < 2:
        return None
    if track.container_name in FINDS_PACKETS:
        try:
            track.container.seek(track.time(skipped), stream=track.stream)
        except av.FFmpegError:
            return None
    track.stream.codec_context.flush_buffers()
    frames = _decoded(itertools.dropwhile(lambda packet: track.is_before(packet, skipped), packets))
    frame = next(frames, None)
    if frame is None or not timeline.resume(frame):
        return None
    return timeline.placed(itertools.chain([frame], frames))


class Timeline:
    """Places the frames of a track: one after another, with silence before one that is later."""

    def __init__(self, track: Track) -> None:
        self._track, self._mixer = track, Mixer(track.rate, track.container_name)
        self.position: int | None = None  # of the next sample
        # frames of one length begin at `_origin` + n · `_step`
        self._origin: int | None = None
        self._step: int | None = None

    def placed(self, frames: Iterator[Any]) -> Iterator[tuple[int, Waveform]]:
        """The positions at which PyAV's frames begin, and their mono samples."""
        for frame in frames:
            begin, samples = self._begin(frame), self._mixer.mono(frame)
            self.position = begin + len(samples)
            if self._origin is None:
                self._origin = self.position  # the first frame may be cut
            elif self._step is None:
                self._step = len(samples)
            yield begin, samples
        if self.position is not None:
            yield self.position, self._mixer.rest()

    def resume(self, frame: Any) -> bool:
        """Goes on at a later frame; returns whether it is certain where it begins."""
        self.position = None
        if frame.pts is not None:
            stated = self._track.position(frame.pts)
            if self._track.codec_name in OF_ONE_LENGTH:
                self.position = self._on_grid(stated)
            elif self._track.codec_name.startswith(FORGETTING) and self._track.unit <= 1:
                self.position = stated
        return self.position is not None

    def _begin(self, frame: Any) -> int:
        if frame.pts is None:
            return self.position or 0
        stated = self._track.position(frame.pts)
        if self.position is None:
            return stated
        if stated - self.position <= GAP_SECONDS * self._track.rate:
            return self.position
        on_grid = self._on_grid(stated)
        return stated if on_grid is None else on_grid

    def _on_grid(self, stated: int) -> int | None:
        """Where a frame of one length begins whose time is rounded; `None` if the grid has no such place."""
        rounding = math.ceil(self._track.unit)
        if self._origin is None or self._step is None or self._step < 4 * rounding:
            return None
        position = self._origin + round((stated - self._origin) / self._step) * self._step
        return position if abs(position - stated) <= rounding else None


class Segment:
    """Collects the samples from `first` to `last`; what is not put is silent."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last, self._end = first, last, first
        self._parts: list[Waveform] = []

    @property
    def is_full(self) -> bool:
        return self._end >= self._last

    def put(self, begin: int, samples: Waveform, limit: int) -> bool:
        """Takes samples, but for those before the end; returns whether there are at most `limit` with them."""
        offset = min(max(begin, self._end), self._last)
        taken = samples[offset - begin : max(0, self._last - begin)]
        if offset + len(taken) - self._first > limit:
            return False
        silence = np.zeros(max(0, offset - self._end), np.float32)
        self._parts += [part for part in (silence, taken) if len(part)]  # an empty part would keep its frame
        self._end = offset + len(taken)
        return True

    def waveform(self) -> Waveform:
        return np.concatenate([NOTHING, *self._parts])


def _collected(
    track: Track, placed: Iterator[tuple[int, Waveform]], segment: Segment, maximum_seconds: float
) -> Waveform:
    reached = 0
    for begin, samples in placed:
        reached = begin + len(samples)
        if not segment.put(begin, samples, round(maximum_seconds * track.rate)):
            raise too_long(maximum_seconds)
        if segment.is_full:
            return segment.waveform()
    _refuse_truncated(track, reached / track.rate)
    return segment.waveform()


def _refuse_truncated(track: Track, reached: float) -> None:
    """Compares the time that the sound of a whole track has reached, in seconds, with what the header states."""
    stated, share = _stated_seconds(track), SHARE_OF_TRACK
    if stated is None and track.container_name in STATES_LENGTH:
        stated, share = (track.container.duration or 0) / 1e6, SHARE_OF_FILE  # from microseconds
        if reached < share * stated - PACKETS_SECONDS:
            reached = max(reached, _last_time(track.path))  # another track may be longer
    if stated is not None and reached < share * stated - PACKETS_SECONDS:
        raise MediaError(f"the sound track is truncated: expected {stated:.2f} s, got {reached:.2f} s")


def _stated_seconds(track: Track) -> float | None:
    """When the track ends by its header; `None` if that does not say, or FFmpeg has estimated it."""
    if track.container_name == "mp3":
        return float(_mp3_frames(track.path) * track.stream.codec_context.frame_size / track.rate)
    if track.container_name in STATES_LENGTH and track.stream.duration:
        return float(track.position((track.stream.start_time or 0) + track.stream.duration) / track.rate)
    return None


def _mp3_frames(path: Path) -> int:
    """Number of frames that the first frame of an MP3 file states, in a tag of Xing; 0 if it has none."""
    with path.open("rb") as stream:
        tags = stream.read(10)  # of ID3v2, which states its size in four groups of seven bits
        size = sum(byte << shift for byte, shift in zip(tags[6:], (21, 14, 7, 0), strict=False))
        stream.seek(10 + size if tags[:3] == b"ID3" else 0)
        stated = re.search(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", stream.read(200), re.DOTALL)
    return int.from_bytes(stated[1], "big") if stated else 0


def _last_time(path: Path) -> float:
    """When the last packet of a file ends, in seconds."""
    with open_container(path, undecodable) as container:
        return packets_end(container)
