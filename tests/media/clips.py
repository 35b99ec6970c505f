"""Writes unusual clips like those of real corpora: of any codec and container, rotated, cut, with irregular times."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
MILLISECONDS = Fraction(1, 1000)
UNITY = 1 << 16  # one, in the numbers of an mp4's matrix
# Matrix of a track's header that turns the picture by so many quarters with the clock.
TURNS = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


def numbered(count: int = 24, height: int = 96, width: int = 128) -> Frames:
    """Frames that tell their number: the brightness of the left half rises by 10, the right half shows coarse noise."""
    noise = np.random.default_rng(0).integers(0, 255, (count, height // 8, width // 16, 3), dtype=np.uint8)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    frames[:, :, : width // 2] = (10 + 10 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    frames[:, :, width // 2 :] = noise.repeat(8, axis=1).repeat(8, axis=2)
    return frames


def numbers_of(frames: Frames) -> list[int]:
    """Which of `numbered` frames these are, read from the left of the picture."""
    return [round((float(frame[:, : frame.shape[1] // 8].mean()) - 10) / 10) for frame in frames]


def write_clip(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    *,
    rate: int = 10,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    sound: NDArray[np.float32] | None = None,
    sound_codec: str = "aac",
    sound_rate: int = 16_000,
    layout: str = "mono",
) -> Path:
    """Writes a clip.

    Args:
        path: its suffix says the container.
        frames: (N, H, W, 3); none for a file with sound alone.
        codec: of the picture.
        rate: frames a second.
        times: milliseconds at which each frame is shown; `None` for evenly spaced ones.
        options: of the codec.
        sound: (channels, samples); `None` for no sound track.
        sound_codec: of the sound.
        sound_rate: Hz.
        layout: of the channels.
    """
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codec, rate=rate, options=options or {}) if len(frames) else None
        if picture is not None:
            picture.height, picture.width, picture.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            if times is not None:
                picture.codec_context.time_base = MILLISECONDS
        track = None if sound is None else container.add_stream(sound_codec, rate=sound_rate, layout=layout)
        if picture is not None:
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number if times is None else times[number]
                if times is not None:
                    frame.time_base = MILLISECONDS
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if track is not None and sound is not None:
            planar = track.format.is_planar
            samples = sound if track.format.name.startswith("flt") else (sound * 32767).astype(np.int16)
            samples = samples if planar else samples.T.reshape(1, -1)
            audio = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=track.format.name, layout=layout)
            audio.sample_rate, audio.time_base, audio.pts = sound_rate, Fraction(1, sound_rate), 0
            container.mux(track.encode(audio))
            container.mux(track.encode())
    return path


def boxes_of(content: bytes | bytearray, name: bytes) -> list[int]:
    """Where the boxes of a name are in an mp4."""
    offsets, offset = [], content.find(name)
    while offset >= 0:
        offsets.append(offset)
        offset = content.find(name, offset + 1)
    return offsets


def turned(path: Path, quarters: int) -> Path:
    """Makes an mp4 be shown turned with the clock, as a phone does: its pixels stay as they are."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (number * UNITY for number in TURNS[quarters])
    offset = boxes_of(content, b"tkhd")[0] + 44
    content[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def without_first(path: Path, frames: int) -> Path:
    """Makes an mp4 start later, by its edit list, as a cut without new encoding does: the frames stay in the file."""
    content = bytearray(path.read_bytes())
    (offset,), (table,) = boxes_of(content, b"elst"), boxes_of(content, b"stts")
    (_, delta) = struct.unpack(">II", content[table + 12 : table + 20])
    (start,) = struct.unpack(">i", content[offset + 16 : offset + 20])
    content[offset + 16 : offset + 20] = struct.pack(">i", start + frames * delta)
    path.write_bytes(content)
    return path


def only_first(path: Path, frames: int) -> Path:
    """Makes an mp4 end earlier, by its edit list; the frames stay in the file."""
    content = bytearray(path.read_bytes())
    (offset,), (table,), (movie,) = (boxes_of(content, name) for name in (b"elst", b"stts", b"mvhd"))
    (_, delta), (scale,) = (
        struct.unpack(">II", content[table + 12 : table + 20]),
        struct.unpack(">I", content[movie + 16 : movie + 20]),
    )
    (media_scale,) = struct.unpack(">I", content[boxes_of(content, b"mdhd")[0] + 16 :][:4])
    content[offset + 12 : offset + 16] = struct.pack(">I", frames * delta * scale // media_scale)
    path.write_bytes(content)
    return path


def index_first(path: Path) -> Path:
    """Makes an mp4 whose index comes before its content: cut off, it still states all of its frames."""
    copy = path.with_name(f"index_first_{path.name}")
    with av.open(str(path)) as whole, av.open(str(copy), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return copy


def claiming(path: Path, seconds: int, *, by: str) -> Path:
    """Makes an mp4 of 2 seconds state another length, by more samples ("count") or by longer ones ("duration")."""
    content = bytearray(path.read_bytes())

    def put(offset: int, number: int) -> None:
        content[offset : offset + 4] = struct.pack(">I", number)

    def get(offset: int) -> int:
        return int(struct.unpack(">I", content[offset : offset + 4])[0])

    movie_scale = get(boxes_of(content, b"mvhd")[0] + 16)
    put(boxes_of(content, b"mvhd")[0] + 20, seconds * movie_scale)
    for offset in boxes_of(content, b"tkhd"):
        put(offset + 24, seconds * movie_scale)
    for offset in boxes_of(content, b"elst"):
        put(offset + 12, seconds * movie_scale)
    for offset in boxes_of(content, b"mdhd"):
        put(offset + 20, seconds * get(offset + 16))
    for offset in boxes_of(content, b"stts"):
        at = offset + (12 if by == "count" else 16)
        put(at, get(at) * seconds // 2)
    path.write_bytes(content)
    return path
