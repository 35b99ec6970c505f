"""Which files are a clip together."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from emorec.config.command_line import for_hydra, parse
from emorec.errors import UserError
from emorec.inference.clips import read_clips
from tests.conftest import tone

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write_sound: Write) -> Path:
    for name in ("a.wav", "sub/b.wav", "sub/b.flac", ".hidden/c.wav", "._a.wav"):
        write_sound(f"clips/{name}", tone(0.5))
    clips = tmp_path / "clips"
    (clips / "a.txt").write_bytes("\ufeffhello there".encode())
    (clips / "README.txt").write_text("about these")
    (clips / "labels.json").write_text("{}")
    return clips


def test_files_of_a_folder_are_clips_but_hidden_ones_and_texts_without_media(folder: Path) -> None:
    clips = {clip.id: clip for clip in read_clips(folder)}
    assert sorted(clips) == ["a.wav", "sub/b.flac", "sub/b.wav"]
    assert clips["a.wav"].text == "hello there"
    texts = folder / "texts"
    texts.mkdir()
    (texts / "one.txt").write_text("one")
    assert [clip.id for clip in read_clips(texts)] == ["one.txt"]


def test_lines_of_standard_input_are_files_with_the_transcripts_beside_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [folder / "a.wav", folder / "a.wav", folder / "labels.json", folder / "sub/b.wav"]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    clips = read_clips("-")
    assert [(Path(clip.id).name, clip.text) for clip in clips] == [("a.wav", "hello there"), ("b.wav", None)]
    monkeypatch.setattr("sys.stdin", io.StringIO("labels.json\n"))
    with pytest.raises(UserError, match="on standard input, got none"):
        read_clips("-")


def test_names_that_are_not_utf_8_can_be_written(tmp_path: Path, write_sound: Write) -> None:
    path = write_sound("a.wav", tone(0.5))
    strange = path.rename(tmp_path / b"\xff.wav".decode(errors="surrogateescape"))
    (clip,) = read_clips(tmp_path)
    assert clip.id.encode() == b"\\udcff.wav"
    assert clip.audio == strange


@pytest.mark.parametrize("name", ["clip (1).mp4", "talk [de].mp4", "a=b.mp4", "it's.mp4", "a,b.mp4", "2024", "{x}"])
def test_any_name_of_a_file_is_a_text_for_hydra(name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    line = parse("predict", ["run=abc", f"input={name}", f"output={name}"])
    parsed = OverridesParser.create().parse_overrides(for_hydra(line, line.overrides))
    assert [item.value() for item in parsed][1:] == [name, name]
    assert for_hydra(parse("predict", []), ["plot=null"]) == ["plot=null"]


def test_an_empty_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("audio\n")
    with pytest.raises(UserError, match="expected rows, found none"):
        read_clips(tmp_path / "empty.csv")
