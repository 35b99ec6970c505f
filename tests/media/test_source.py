"""What identifies a source, and the clock of a file."""

from dataclasses import replace
from pathlib import Path

import pytest

from emorec.media.decoding_process import DecodingProcesses
from emorec.media.source import MediaError, Source, clock_start, open_container
from tests.conftest import tone
from tests.media.clips import numbered, write_clip


def content(_: Path) -> str:
    return "0" * 64


def test_a_key_tells_decoders_apart_and_not_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"0")
    source = Source(modality="video", path=path)
    patient = replace(source, processes=DecodingProcesses(seconds=900))
    words = Source(modality="text", text="words")
    keys = source.key(content), patient.key(content), words.key(content)
    assert keys[0] == keys[1]
    monkeypatch.setattr("emorec.media.source.DECODER", 3)
    assert source.key(content) != keys[0]
    assert words.key(content) == keys[2]


def test_keys_of_stored_features_do_not_change(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"0")
    words = Source(modality="text", text="words").key(content)
    video = Source(modality="video", path=path, start=0.5, crop="left").key(content)
    assert (words[:12], video[:12]) == ("ac5a1328805d", "9d9ef238f940")


@pytest.mark.parametrize(("with_sound", "seconds"), [(False, 0.5), (True, 0.0)])
def test_the_clock_starts_with_the_first_track(with_sound: bool, seconds: float, tmp_path: Path) -> None:
    times = [500 + 100 * number for number in range(4)]
    sound = tone(1.0)[None] if with_sound else None
    path = write_clip(tmp_path / "a.mkv", numbered(4, 64, 64), "mpeg4", times=times, sound=sound)
    with open_container(path, MediaError) as container:
        assert clock_start(container) == pytest.approx(seconds, abs=1e-3)
