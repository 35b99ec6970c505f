"""Decodes sound files and the sound tracks of videos to mono, at their own rate.

libsndfile reads sound files. decord reads sound tracks and formats that libsndfile does not know; PyAV reads them where
decord is not installed or fails. Both mix channels by FFmpeg's rules, and agree up to rounding.
"""

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emorec.media.signal import Waveform
from emorec.media.source import MediaError, Reader, open_container

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".flv", ".webm", ".m4v"})
PACKETS_SECONDS = 0.25  # a container may state a few more packets than there are
SHARE_OF_TRACK = 0.99  # share of a sound track's stated length that must be there
SHARE_OF_FILE = 0.8  # share of the file's stated length that must be there, where the track's is not stated
UNKNOWN_LENGTH = 0x7FFFF000  # headers of streams state about the largest number, signed or not, for "unknown"
NOT_BY_DECORD = frozenset({"opus"})  # decord keeps the samples at the start that the format says to skip
BLOCK = 1 << 22  # samples of all channels that are read at once; a header may state more than memory holds
# Mono from 5.1 (front left, right, centre, low frequencies, surround left, right) after ITU-R BS.775, as FFmpeg mixes
# the sound tracks of videos: speech, in the centre, keeps its level, and low frequencies are left out.
SURROUND_WEIGHTS = np.array([2**-0.5, 2**-0.5, 1.0, 0.0, 0.5, 0.5], dtype=np.float32)


def decode_sound(
    path: Path, head: bytes, start: float | None, end: float | None, reader: Reader | None = None
) -> tuple[Waveform, int]:
    """The sound of a file from `start` to `end` (seconds; `None` for its own): mono (samples,), and its rate in Hz.

    The format is detected from `head`, the file's first 12 bytes; the name only decides which decoder tries first. The
    `reader` is that of sound tracks; `None` for decord, then PyAV.

    Raises:
        MediaError: the sound is not decodable or truncated.
    """
    _refuse_truncated(path, head)
    is_sound = head[:4] == b"fLaC" or (head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE")
    if is_sound or path.suffix.lower() not in VIDEO_SUFFIXES:
        decoded = _decode_sound_file(path, start, end)
        if decoded is not None:
            return decoded
    waveform, rate = _decode_sound_track(path, reader)
    return waveform[_sample(start, rate, 0) : _sample(end, rate, len(waveform))], rate


def _sample(seconds: float | None, rate: int, default: int) -> int:
    return default if seconds is None else max(0, round(seconds * rate))


def _refuse_truncated(path: Path, head: bytes) -> None:
    """Compares the length of a WAV or AIFF file with its header, as libsndfile does not report truncated ones."""
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        order, name = "<", b"data"
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        order, name = ">", b"SSND"
    else:
        return
    stated, actual = _chunk_end(path, order, name), os.path.getsize(path)
    if actual < stated < UNKNOWN_LENGTH:
        raise MediaError(f"the file is truncated: its header states {stated} bytes, it has {actual}")


def _chunk_end(path: Path, order: str, name: bytes) -> int:
    """Offset at which a chunk of a RIFF or IFF file ends by its header; 0 if there is none."""
    with path.open("rb") as stream:
        offset = 12
        while True:
            stream.seek(offset)
            header = stream.read(8)
            if len(header) < 8:
                return 0
            length = int(struct.unpack(f"{order}I", header[4:])[0])
            if header[:4] == name:
                return offset + 8 + length
            offset += 8 + length + length % 2


def _decode_sound_file(path: Path, start: float | None, end: float | None) -> tuple[Waveform, int] | None:
    """As `decode_sound`, by libsndfile; `None` if it does not know the format."""
    import soundfile

    try:
        sound = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    try:
        with sound:
            first, last = _sample(start, sound.samplerate, 0), _sample(end, sound.samplerate, sound.frames)
            last = min(last, sound.frames)
            if first:
                sound.seek(min(first, sound.frames))
            samples = _read_blocks(sound, max(0, last - first))
            rate = int(sound.samplerate)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"not decodable as sound: {error.error_string}") from error
    if len(samples) < last - first:
        raise MediaError(f"the file is truncated: expected {last - first} samples, got {len(samples)}")
    return _mono(samples), rate


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


def _mono(samples: NDArray[np.float32]) -> Waveform:
    """(samples, channels) to (samples,)."""
    if samples.shape[1] == len(SURROUND_WEIGHTS):
        mono: Waveform = samples @ SURROUND_WEIGHTS
        return mono
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _decode_sound_track(path: Path, reader: Reader | None) -> tuple[Waveform, int]:
    rate, stated, share, codec = _track(path)
    if codec in NOT_BY_DECORD:
        reader = "av"
    waveform = None if reader == "av" else _by_decord(path, rate)
    if waveform is None and reader != "decord":
        waveform = _by_av(path, rate)
    if waveform is None:
        raise MediaError("the sound track is not decodable by decord")
    if len(waveform) / rate < share * stated - PACKETS_SECONDS:
        raise MediaError(f"the sound track is truncated: expected {stated:.2f} s, got {len(waveform) / rate:.2f} s")
    return waveform, rate


def _undecodable(reason: str) -> MediaError:
    return MediaError(f"the sound track is not decodable: {reason}")


def _track(path: Path) -> tuple[int, float, float, str]:
    """Rate in Hz, stated length in seconds, share of it that must be there, and codec of the first sound track."""
    with open_container(path, _undecodable) as container:
        if not container.streams.audio:
            raise MediaError("the video has no sound track")
        track = container.streams.audio[0]
        rate, codec = int(track.rate or 0), str(track.codec_context.name)
        if track.duration and track.time_base:
            stated, share = float(track.duration * track.time_base), SHARE_OF_TRACK
        else:  # of the file, whose video track may be longer
            stated, share = (container.duration or 0) / 1e6, SHARE_OF_FILE  # from microseconds
    if rate <= 0:
        raise _undecodable("it states no sample rate")
    return rate, stated, share, codec


def _by_decord(path: Path, rate: int) -> Waveform | None:
    """The sound track, mono; `None` if decord is not installed or fails."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    try:
        # decord returns uninitialised memory for more than one channel, unless it mixes them while it decodes.
        samples = decord.AudioReader(str(path), sample_rate=rate, mono=True)[:].asnumpy()
    except (decord.DECORDError, IndexError):
        return None
    waveform: Waveform = samples.reshape(-1).astype(np.float32, copy=False)
    return waveform


def _by_av(path: Path, rate: int) -> Waveform:
    import av

    with open_container(path, _undecodable) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        frames = [mono for frame in container.decode(audio=0) for mono in resampler.resample(frame)]
        frames += resampler.resample(None) if frames else []
        parts = [frame.to_ndarray()[0] for frame in frames]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
