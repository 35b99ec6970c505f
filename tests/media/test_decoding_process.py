"""A clip that crashes, hangs or fills the memory costs that clip, and what others decode to is what it was."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from emorec.media import decoding_process
from emorec.media.connection import Connection
from emorec.media.decoding_process import DecodingProcesses
from emorec.media.sampling import decode_frames
from emorec.media.sound import decode_sound
from emorec.media.source import MediaError, UnfinishedDecodingError
from tests.conftest import REPOSITORY, tone
from tests.media.clips import numbered, write_clip
from tests.media.damaged_decoder import damage_decoders

pytestmark = pytest.mark.slow

WHOLE: dict[str, Any] = {"start": None, "end": None, "maximum_seconds": 60.0}
PICTURES: dict[str, Any] = {"start": None, "end": None, "count": 8, "crop": None, "reader": "av"}
SECONDS = 20.0  # for what takes a moment


@pytest.fixture(autouse=True)
def none_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process waits that another test has started."""
    monkeypatch.setattr(decoding_process, "_kept", decoding_process._Kept())


@pytest.fixture
def path_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a sound of a name; processes that are started now fail at some names."""
    damage_decoders(tmp_path, monkeypatch)

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, tone(0.5), 16_000)
        return path

    return write


@pytest.fixture
def processes() -> Iterator[DecodingProcesses]:
    with DecodingProcesses(seconds=SECONDS, most_bytes=1_000_000_000) as started:
        yield started


def children_of(process: int) -> list[int]:
    """The children of a process that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == process and state != "Z":
            found.append(int(status.parent.name))
    return found


def wait_until(holds: Callable[[], bool]) -> bool:
    due = time.monotonic() + SECONDS
    while not holds() and time.monotonic() < due:
        time.sleep(0.01)
    return holds()


FAILURES = {
    "segfault": "decoding ended with SIGSEGV",
    "abort": "decoding ended with SIGABRT",
    "exit": "decoding ended with exit code 3",
    "error": "decoding ended with exit code 1",
    "large": r"decoding took more than 1 GB of memory \(extraction.clip_bytes\)",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_clip_that_ends_its_process_costs_that_clip(
    name: str, path_of: Callable[[str], Path], processes: DecodingProcesses
) -> None:
    whole = path_of("a")
    for _ in range(2):
        with pytest.raises(UnfinishedDecodingError, match=FAILURES[name]):
            processes.sound(path_of(name), **WHOLE)
        np.testing.assert_array_equal(processes.sound(whole, **WHOLE)[0], decode_sound(whole, None, None, 60.0)[0])


@pytest.mark.parametrize("name", ["hang", "stop"])
def test_a_clip_that_hangs_within_a_library_costs_that_clip(name: str, path_of: Callable[[str], Path]) -> None:
    path, whole, before = path_of(name), path_of("a"), set(children_of(os.getpid()))
    with DecodingProcesses(seconds=0.5) as processes:
        processes.sound(whole, **WHOLE)
        (hanging,) = set(children_of(os.getpid())) - before
        with pytest.raises(UnfinishedDecodingError, match=r"longer than 0.5 seconds \(extraction.clip_seconds\)"):
            processes.sound(path, **WHOLE)
        assert hanging not in children_of(os.getpid())
        assert len(processes.sound(whole, **WHOLE)[0]) == 8000


def test_a_clip_is_not_blamed_for_the_one_before(path_of: Callable[[str], Path], processes: DecodingProcesses) -> None:
    processes.sound(path_of("damages"), **WHOLE)
    assert len(processes.sound(path_of("a"), **WHOLE)[0]) == 8000


def test_the_limit_of_memory_can_be_raised(path_of: Callable[[str], Path]) -> None:
    with DecodingProcesses(most_bytes=4_000_000_000) as processes:
        assert len(processes.sound(path_of("large"), **WHOLE)[0]) == 8000


SOUNDS: dict[str, Callable[[Path], Path]] = {
    "pcm": lambda folder: sound_file(folder / "a.wav", "PCM_16"),
    "float": lambda folder: sound_file(folder / "a.wav", "DOUBLE"),
    "flac": lambda folder: sound_file(folder / "a.flac", "PCM_24"),
    "mp3": lambda folder: sound_file(folder / "a.mp3", None),
    "aac": lambda folder: write_clip(folder / "a.mp4", numbered(), sound=stereo(), layout="stereo"),
    "opus": lambda folder: write_clip(
        folder / "a.mkv", numbered(0), sound=stereo(), layout="stereo", sound_codec="libopus", sound_rate=48_000
    ),
}


def stereo(seconds: float = 2.0) -> np.ndarray:
    """(2, samples)"""
    return np.stack([tone(seconds, pitch=300.0), tone(seconds, pitch=170.0)])


def sound_file(path: Path, subtype: str | None) -> Path:
    soundfile.write(path, stereo().T, 16_000, subtype=subtype)
    return path


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_is_bit_for_bit_that_of_this_process(name: str, tmp_path: Path, processes: DecodingProcesses) -> None:
    path = SOUNDS[name](tmp_path)
    for start, end in ((None, None), (0.25, 1.5)):
        sound, rate = processes.sound(path, start=start, end=end, maximum_seconds=60.0)
        expected, expected_rate = decode_sound(path, start, end, 60.0)
        assert (rate, sound.dtype) == (expected_rate, np.float32)
        np.testing.assert_array_equal(sound, expected)


@pytest.mark.parametrize(("file", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx-vp9")])
@pytest.mark.parametrize("size", [32, 96, None])
def test_frames_are_bit_for_bit_those_of_this_process(
    file: str, codec: str, size: int | None, tmp_path: Path, processes: DecodingProcesses
) -> None:
    path = write_clip(tmp_path / file, numbered(), codec)
    frames, shown = processes.frames(path, size=size, **PICTURES)
    expected, _ = decode_frames(path, size=size, **PICTURES)
    assert shown == (96, 128)
    np.testing.assert_array_equal(frames, expected)


def test_a_hundred_megabytes_of_frames_arrive_whole(tmp_path: Path, processes: DecodingProcesses) -> None:
    path, options = write_clip(tmp_path / "a.mp4", numbered(4, 1024, 1024), "mpeg4"), {**PICTURES, "count": 32}
    frames, _ = processes.frames(path, size=None, **options)
    assert frames.nbytes == 32 * 3 << 20
    np.testing.assert_array_equal(frames, decode_frames(path, size=None, **options)[0])


def test_errors_are_those_of_this_process(tmp_path: Path, processes: DecodingProcesses) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound")
    os.mkfifo(tmp_path / "pipe.wav")
    for name, kind in {
        "missing": FileNotFoundError, "empty": MediaError, "text": MediaError, "pipe": OSError
    }.items():  # fmt: skip
        path = tmp_path / f"{name}.wav"
        with pytest.raises(kind) as expected:
            decode_sound(path, None, None, 60.0)
        with pytest.raises(kind) as caught:
            processes.sound(path, **WHOLE)
        assert str(caught.value) == str(expected.value)


def test_a_name_of_any_bytes_and_relative_to_the_working_directory_is_read(
    tmp_path: Path, processes: DecodingProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound_file(tmp_path / "a.wav", "PCM_16").rename(tmp_path / os.fsdecode(b"\xff \xc3\xa4.wav"))
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FileNotFoundError):
        processes.sound(Path("b.wav"), **WHOLE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(processes.sound(Path(os.fsdecode(b"../\xff \xc3\xa4.wav")), **WHOLE)[0]) == 32_000


def test_each_thread_has_a_process_and_its_own_answers(tmp_path: Path, processes: DecodingProcesses) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(24)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.full(1000 + number, number / 100), 16_000, subtype="FLOAT")
    before = len(children_of(os.getpid()))
    with ThreadPoolExecutor(3) as pool:
        lengths = pool.map(lambda path: len(processes.sound(path, **WHOLE)[0]), paths)
        assert list(lengths) == [1000 + number for number in range(24)]
    assert 1 <= len(children_of(os.getpid())) - before <= 3


def test_the_end_of_the_block_ends_what_hangs(path_of: Callable[[str], Path]) -> None:
    path, before = path_of("hang"), set(children_of(os.getpid()))
    with ThreadPoolExecutor(1) as pool, DecodingProcesses() as processes:
        future = pool.submit(processes.sound, path, **WHOLE)
        assert wait_until(path.with_name("hang.wav.pid").exists)
    with pytest.raises(UnfinishedDecodingError, match="decoding was stopped"):
        future.result()
    assert set(children_of(os.getpid())) <= before
    with pytest.raises(UnfinishedDecodingError, match="decoding was stopped"):
        processes.sound(path, **WHOLE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_to_the_group_are_for_the_parent(
    number: signal.Signals, path_of: Callable[[str], Path], processes: DecodingProcesses
) -> None:
    before = set(children_of(os.getpid()))
    processes.sound(path_of("a"), **WHOLE)
    started = set(children_of(os.getpid())) - before
    for process in started:
        os.kill(process, number)
    processes.sound(path_of("b"), **WHOLE)
    assert set(children_of(os.getpid())) - before == started


def test_a_forked_process_decodes_by_processes_of_its_own(path_of: Callable[[str], Path]) -> None:
    path, context = path_of("a"), get_context("fork")
    with DecodingProcesses() as processes:
        processes.sound(path, **WHOLE)
        queue = context.SimpleQueue()
        child = context.Process(target=lambda: queue.put(len(processes.sound(path, **WHOLE)[0])))
        child.start()
        child.join(SECONDS)
        assert (child.exitcode, queue.get()) == (0, 8000)
        assert len(processes.sound(path, **WHOLE)[0]) == 8000


PARENT = """
import sys
from pathlib import Path
from emorec.media.decoding_process import DecodingProcesses
processes = DecodingProcesses()
processes.sound(Path(sys.argv[1]), start=None, end=None, maximum_seconds=60.0)
print("ready", flush=True)
processes.sound(Path(sys.argv[2]), start=None, end=None, maximum_seconds=60.0) if sys.argv[2:] else input()
"""


@pytest.mark.parametrize("name", ["hang", None], ids=["in a library", "idle"])
def test_no_process_survives_its_parent(name: str | None, path_of: Callable[[str], Path]) -> None:
    paths = [str(path_of(item)) for item in ("a", name) if item]
    command = [sys.executable, "-c", PARENT, *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (process,) = children_of(parent.pid)
        assert name is None or wait_until(Path(f"{paths[-1]}.pid").exists)
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not Path(f"/proc/{process}").exists())


def test_the_decoding_process_imports_neither_torch_nor_hydra() -> None:
    code = "import sys, emorec.media.decoder; print(*{'torch', 'hydra', 'omegaconf', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def framed(words: bytes) -> bytes:
    return struct.pack("<I", len(words)) + words


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff\xff\xff",
        framed(b"no words"),
        framed(b"[1]"),
        framed(b"[" * 100_000),
        framed(b'{"dtype": "object", "shape": [1]}'),
        framed(b'{"dtype": "uint8", "shape": 1}'),
        framed(b'{"dtype": "uint8", "shape": [-1]}'),
        framed(b'{"dtype": "uint8", "shape": [2.5]}'),
        framed(b'{"dtype": "uint8", "shape": [101]}'),
        framed(b'{"dtype": "float32", "shape": [1048576, 1048576]}'),
    ],
)
def test_an_answer_that_is_none_is_refused_before_memory_is_taken_for_it(message: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(message)
        with pytest.raises(ValueError, match="xpect"):
            Connection(ours).receive(until=time.monotonic() + SECONDS, most_bytes=100)
