"""Sound files whose headers claim what is not there are refused, before memory or time is spent on it."""

import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from emorec.media.audio import AudioSettings, read_audio
from emorec.media.sound import decode_sound
from emorec.media.source import MediaError, Source
from tests.conftest import REPOSITORY
from tests.media.test_tracks import chirp, write_track

CENTRE_FIRST = 114 << 16 | 3  # QuickTime's number of the order centre, left, right
DECODE = """
import sys
from pathlib import Path
from emorec.media.sound import decode_sound
from emorec.media.source import MediaError
from emorec.media.tracks import decode_track
for path in map(Path, sys.argv[1:]):
    for _ in range(20):
        try:
            print(len(decode_track(path, None, None, 60)[0]))
        except MediaError as error:
            print(error)
"""


def refusal(path: Path, **settings: float) -> str:
    """The reason for which a file is refused."""
    with pytest.raises(MediaError) as caught:
        read_audio(Source(modality="audio", path=path), AudioSettings(**settings))  # type: ignore[arg-type]
    return str(caught.value)


def wav(path: Path, *, kind: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16) -> Path:
    """Writes a WAV file of one second whose header claims this."""
    layout = struct.pack("<HHIIHH", kind, channels, rate, 2 * rate % (1 << 32), 2, bits)
    samples = (chirp(1.0, 16_000)[0] * 32767).astype("<i2").tobytes()
    chunks = b"fmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", len(samples)) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize("rate", [0, 1_999_999_973, 4_294_967_295])
def test_a_rate_that_no_sound_has_is_refused_before_a_filter_for_it_is_made(rate: int, tmp_path: Path) -> None:
    assert "not decodable" in refusal(wav(tmp_path / "a.wav", rate=rate))


@pytest.mark.parametrize("claim", [{"bits": 0}, {"bits": 255}, {"channels": 0}, {"channels": 65_535}, {"kind": 0x7777}])
def test_a_layout_that_no_sound_has_is_refused(claim: dict[str, int], tmp_path: Path) -> None:
    assert "not decodable" in refusal(wav(tmp_path / "a.wav", **claim))


def test_a_rate_of_one_sample_a_second_makes_no_hours(tmp_path: Path) -> None:
    assert "too long" in refusal(wav(tmp_path / "a.wav", rate=1))


def test_a_wav_of_endless_empty_chunks_is_refused_at_its_first_ones(tmp_path: Path) -> None:
    with (tmp_path / "a.wav").open("wb") as stream:
        stream.write(b"RIFF\xff\xff\xff\x7fWAVE")
        stream.truncate(1 << 34)  # bytes, which take no room on the disk
    assert "no samples in its first chunks" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.flac", "a.mkv"])
def test_ten_minutes_in_a_few_kilobytes_is_refused_within_the_memory_of_the_limit(name: str, tmp_path: Path) -> None:
    rate = 8000
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(600 * rate, np.int16), rate)
    if name == "a.mkv":
        with av.open(str(path)) as source, av.open(str(tmp_path / name), "w") as target:
            stream = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    assert (tmp_path / name).stat().st_size < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(MediaError, match="too long: expected at most 60 s"):
            decode_sound(tmp_path / name, None, None, 60.0)
        assert tracemalloc.get_traced_memory()[1] < 20 * 60 * rate
    finally:
        tracemalloc.stop()


def test_sound_that_claims_to_start_in_a_month_is_refused_without_a_month_of_silence(tmp_path: Path) -> None:
    path = write_track(tmp_path / "a.mkv", "pcm_s16le", chirp(1.0), start=2_000_000.0, picture="mpeg4")
    assert "too long" in refusal(path)


def test_a_track_of_garbage_is_refused(tmp_path: Path) -> None:
    path = write_track(tmp_path / "whole.mkv", "libmp3lame", chirp())
    with av.open(str(path)) as whole, av.open(str(tmp_path / "a.mkv"), "w") as target:
        stream = target.add_stream_from_template(whole.streams.audio[0])
        for number, packet in enumerate(packet for packet in whole.demux(audio=0) if packet.size):
            copy = av.Packet(b"\x55" * packet.size if number % 3 else bytes(packet))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            target.mux(copy)
    assert "not decodable" in refusal(tmp_path / "a.mkv")


def test_channels_that_pyav_frees_twice_or_reads_beyond_end_no_process(tmp_path: Path) -> None:
    paths = []
    for name, codec, layout in (("own.mov", "pcm_s16le", "3.0"), ("eight.m4a", "aac", "7.1")):
        paths.append(tmp_path / name)
        channels = av.AudioLayout(layout).nb_channels
        with av.open(str(paths[-1]), "w") as target:
            track = target.add_stream(codec, rate=16_000, layout=layout)
            samples = np.zeros((1, channels * 16_000), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
            frame.sample_rate = 16_000
            (converted,) = av.AudioResampler(track.format.name, layout, 16_000).resample(frame)
            target.mux([*track.encode(converted), *track.encode()])
    content = bytearray(paths[0].read_bytes())
    offset = content.find(b"chan") + 8
    content[offset : offset + 8] = struct.pack(">II", CENTRE_FIRST, 0)
    paths[0].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, paths)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all("expected channels in a usual order, got 3 channels" in line for line in lines[:20])
    assert len(lines[20:]) == 20
    assert all(16_000 <= int(line) <= 18_048 for line in lines[20:])
