"""Decodes sound files and the sound tracks of videos to mono, at their own rate.

libsndfile reads WAV and FLAC files whose headers state their length; FFmpeg reads what is compressed with loss, sound
tracks, and other headers. Lengths are what decodes.
"""

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emorec.media.mixing import mono_of
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, read_head
from emorec.media.tracks import HIGHEST_RATE, decode_track, sample_at, too_long

EXACT = frozenset({"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"})  # libsndfile's names of samples
UNKNOWN_BYTES = 0x7FFFF000  # headers of streams state about the largest number, signed or not, for "unknown"
UNKNOWN_SAMPLES = 1 << 62  # libsndfile states more for a FLAC of unknown length
SHARE_OF_FILE = 0.99  # share of a file's stated bytes that must be there
HEADER_BYTES = 4096  # a file may state a few more bytes than there are
CHUNKS = 1000  # of a WAV file that are read until its samples
BLOCK = 1 << 22  # samples of all channels that are read at once; a header may state more than memory holds


def decode_sound(path: Path, start: float | None, end: float | None, maximum_seconds: float) -> tuple[Waveform, int]:
    """The sound of a file from `start` to `end` (seconds; `None` for its own): mono (samples,), and its rate in Hz.

    The format is detected from the file's content.

    Raises:
        MediaError: the sound is not decodable, truncated, or longer than `maximum_seconds`.
    """
    head, decoded = read_head(path), None
    is_wav = head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE"
    if is_wav:
        _refuse_truncated(path, _data_end(path))
    elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
        _refuse_truncated(path, 8 + int.from_bytes(head[4:8], "little"))
    if is_wav or head[:4] == b"fLaC":
        decoded = _decode_sound_file(path, start, end, maximum_seconds)
    return decoded or decode_track(path, start, end, maximum_seconds)


def _refuse_truncated(path: Path, stated: int) -> None:
    """Compares the bytes of a file with those that its header states, as no decoder reports truncated WAV and AVI."""
    actual = os.path.getsize(path)
    if actual < SHARE_OF_FILE * stated - HEADER_BYTES and stated < UNKNOWN_BYTES:
        raise MediaError(f"the file is truncated: its header states {stated} bytes, it has {actual}")


def _data_end(path: Path) -> int:
    """Offset at which the samples of a WAV file end by its header.

    Raises:
        MediaError: they are not in the first chunks; libsndfile would search all of the file.
    """
    with path.open("rb") as stream:
        offset = 12
        for _ in range(CHUNKS):
            stream.seek(offset)
            header = stream.read(8)
            if len(header) < 8:
                break
            length = int(struct.unpack("<I", header[4:])[0])
            if header[:4] == b"data":
                return offset + 8 + length
            offset += 8 + length + length % 2
    raise MediaError("not decodable as sound: the file has no samples in its first chunks")


def _decode_sound_file(
    path: Path, start: float | None, end: float | None, maximum_seconds: float
) -> tuple[Waveform, int] | None:
    """As `decode_sound`, by libsndfile; `None` if it may not read the file as it is."""
    import soundfile

    try:
        sound = soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError:
        return None
    try:
        with sound:
            rate = int(sound.samplerate)
            if sound.subtype not in EXACT or not 0 < sound.frames < UNKNOWN_SAMPLES or rate > HIGHEST_RATE:
                return None
            first, last = sample_at(start, rate, 0), min(sample_at(end, rate, sound.frames), sound.frames)
            if first:
                sound.seek(min(first, sound.frames))
            limit = round(maximum_seconds * rate)
            samples = _read_blocks(sound, max(0, min(last - first, limit + 1)))
    except soundfile.LibsndfileError as error:
        raise MediaError(f"not decodable as sound: {error.error_string}") from error
    if len(samples) > limit:
        raise too_long(maximum_seconds)
    if len(samples) < last - first:
        raise MediaError(f"the file is truncated: expected {last - first} samples, got {len(samples)}")
    return mono_of(samples), rate


def _read_blocks(sound: "soundfile.SoundFile", wanted: int) -> NDArray[np.float32]:  # type: ignore[name-defined] # noqa: F821
    """Reads up to `wanted` samples (samples, channels); there may be fewer than the header states."""
    blocks: list[NDArray[np.float32]] = []
    missing, longest = wanted, max(1, BLOCK // sound.channels)
    while missing > 0 or not blocks:
        blocks.append(sound.read(min(missing, longest), dtype="float32", always_2d=True))
        missing -= len(blocks[-1])
        if len(blocks[-1]) < longest:
            break
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
