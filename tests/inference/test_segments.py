"""Recordings are cut into windows, and into what is spoken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.inference import speech
from emorec.inference.clips import UNREADABLE
from emorec.inference.segments import UNKNOWN_TEXT, check_window, recording_of, segments_of, windows
from emorec.media.length import recorded_seconds
from tests.conftest import tone
from tests.media.clips import numbered, write_clip

Write = Callable[..., Path]


def clip_of(path: Path | None, **options: Any) -> Utterance:
    return Utterance(id="talk", dataset="input", audio=path, targets={}, **options)


@pytest.mark.parametrize(
    ("length", "window", "hop", "expected"),
    [
        (5, 3, 1, [(0, 3), (1, 4), (2, 5)]),
        (5.5, 3, 1, [(0, 3), (1, 4), (2, 5), (2.5, 5.5)]),
        (6, 3, 3, [(0, 3), (3, 6)]),
        (7, 3, 3, [(0, 3), (3, 6), (4, 7)]),
        (3, 3, 1, [(0, 3)]),
        (2, 3, 1, [(0, 2)]),
        (0, 3, 1, []),
        (0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),
    ],
)
def test_windows_cover_a_recording_and_the_last_ends_with_it(
    length: float, window: float, hop: float, expected: list[tuple[float, float]]
) -> None:
    np.testing.assert_allclose(np.array(windows(length, window, hop)).reshape(-1, 2), np.array(expected).reshape(-1, 2))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_the_length_of_sound_is_known_without_decoding_it(name: str, write_sound: Write) -> None:
    path = write_sound(name, tone(2.5))
    assert recorded_seconds(path) == pytest.approx(2.5, abs=0.1)


def test_the_length_of_a_video_is_that_of_its_longest_track(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(10), sound=tone(2.0)[None])
    assert recorded_seconds(path) == pytest.approx(2.0, abs=0.1)


def test_segments_are_turns_of_their_recording(write_sound: Write) -> None:
    clip = clip_of(write_sound("talk.wav", tone(3.0)), text="all of it", speaker="Ann", start=0.5, metadata={"a": 1})
    segments = list(segments_of(clip, 1.0, 0.5))
    assert [(item.start, item.end) for item in segments] == [(0.5, 1.5), (1.0, 2.0), (1.5, 2.5), (2.0, 3.0)]
    assert {recording_of(item) for item in segments} == {"talk"} == {item.dialogue for item in segments}
    assert [item.turn for item in segments] == [0, 1, 2, 3]
    assert len({item.id for item in segments}) == 4
    assert {item.text for item in segments} == {None}
    assert {item.speaker for item in segments} == {"Ann"}
    assert recording_of(clip) == "talk"


def test_a_recording_that_cannot_be_read_is_one_segment(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    for path in (tmp_path / "broken.wav", tmp_path / "missing.wav", None):
        (segment,) = segments_of(clip_of(path), 1.0, None)
        assert (segment.start, segment.end) == (None, None)


class LoudIsSpeech:
    """Stands in for the detector: speech begins with a loud chunk, and ends with a quiet one."""

    def __init__(self) -> None:
        self.position, self.speaks = 0, False

    def __call__(self, chunk: torch.Tensor) -> dict[str, int] | None:
        assert chunk.shape == (speech.CHUNK,)
        start, self.position = self.position, self.position + len(chunk)
        loud = bool(chunk.abs().mean() > 0.1)
        if loud == self.speaks:
            return None
        self.speaks = loud
        return {"start" if loud else "end": start}


@pytest.fixture
def talk(write_sound: Write) -> Path:
    """10 seconds, of which 2 to 4, a click at 5, and 6 to the end are loud."""
    samples = np.zeros(80_000, np.float32)
    for start, end in ((2, 4), (5, 5.1), (6, 10)):
        samples[int(start * 8000) : int(end * 8000)] = tone(end - start, rate=8000)
    return write_sound("talk.wav", samples, 8000)


def test_what_is_spoken_is_found_block_by_block(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_detector", LoudIsSpeech)
    whole = list(speech.spoken(clip_of(talk), 0.0, 10.0))
    np.testing.assert_allclose(whole, [(2, 4), (6, 10)], atol=0.07)
    monkeypatch.setattr(speech, "BLOCK_SECONDS", 0.7)
    np.testing.assert_allclose(list(speech.spoken(clip_of(talk), 0.0, 10.0)), whole, atol=0.035)
    np.testing.assert_allclose(list(speech.spoken(clip_of(talk), 3.0, 7.0)), [(3, 4), (6, 7)], atol=0.07)


def test_long_speech_is_cut_into_equal_parts(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_detector", LoudIsSpeech)
    monkeypatch.setattr(speech, "LONGEST_SECONDS", 1.5)
    borders = list(speech.spoken(clip_of(talk), 5.5, 10.0))
    assert len(borders) == 3
    lengths = [end - start for start, end in borders]
    np.testing.assert_allclose(lengths, lengths[0], atol=1e-3)


def test_nobody_speaks_in_a_tone_or_without_sound(talk: Path) -> None:
    pytest.importorskip("silero_vad")
    assert list(speech.spoken(clip_of(talk), 0.0, 10.0)) == []
    assert list(speech.spoken(clip_of(None), 0.0, 10.0)) == []
    (segment,) = segments_of(clip_of(talk, text="all of it"), "speech", None)
    assert (segment.start, segment.end, segment.text) == (0.0, 10.0, "all of it")


def test_a_video_without_sound_has_one_segment_of_speech(tmp_path: Path) -> None:
    pytest.importorskip("silero_vad")
    path = write_clip(tmp_path / "silent.mp4", numbered(10))
    (segment,) = segments_of(replace(clip_of(path), video=path), "speech", None)
    assert segment.start == 0.0


def test_a_transcript_stays_with_a_whole_clip_and_is_unknown_for_a_part(write_sound: Write) -> None:
    clip = clip_of(write_sound("talk.wav", tone(2.0)), text="all of it")
    (whole,) = segments_of(clip, 5.0, None)
    assert whole.text == "all of it"
    parts = list(segments_of(clip, 1.0, None))
    assert [item.text for item in parts] == [None, None]
    assert {item.metadata[UNREADABLE] for item in parts} == {UNKNOWN_TEXT}
    (text,) = segments_of(clip_of(None, text="read"), 1.0, None)
    assert text.text == "read"


@pytest.mark.parametrize(
    ("window", "hop"), [(0, None), (-1.0, None), (3.0, 0), (3.0, -1.0), (3.0, 5.0), ("speech", 1.0), ("loud", None)]
)
def test_segments_that_do_not_cover_a_recording_are_refused(window: Any, hop: float | None) -> None:
    with pytest.raises(UserError, match="expected"):
        check_window(window, hop)


def test_a_missing_package_is_named(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speech._model.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "silero_vad", None)
    with pytest.raises(Exception, match=r"pip install 'emorec\[vad\]'"):
        list(speech.spoken(clip_of(talk), 0.0, 10.0))


def test_a_window_of_a_clip_that_ends_before_its_file(write_sound: Write) -> None:
    path = write_sound("talk.wav", tone(3.0))
    borders = [(item.start, item.end) for item in segments_of(clip_of(path, start=1.0, end=2.0), 5.0, None)]
    assert borders == [(1.0, 2.0)]
