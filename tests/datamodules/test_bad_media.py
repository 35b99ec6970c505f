"""A corpus of fifty utterances with one bad file of each kind: each is named, and skipped or fatal as configured."""

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emorec.cli import main
from emorec.datasets.fixtures.media import voice, write_clip, write_sound
from emorec.features.inventory import inventory

COUNT = 50
TEXTLESS = "clip40"
ONE_FRAME = "clip41"
BAD_SOUND = ("clip00", "clip01", "clip02", "clip03", "clip04", "clip05", "clip06")
BAD_PICTURE = ("clip10", "clip11", "clip12", "clip13")


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


def spoil(folder: Path) -> None:
    """One file of each kind."""
    wavs, clips = folder / "wavs", folder / "clips"
    (wavs / "clip00.wav").write_bytes(b"")
    whole = (wavs / "clip01.wav").read_bytes()
    (wavs / "clip01.wav").write_bytes(whole[: len(whole) // 2])
    samples = voice(0.4, seed=2)
    samples[100] = np.nan
    soundfile.write(wavs / "clip02.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(wavs / "clip03.wav", np.zeros(0, np.float32), 16_000)
    (wavs / "clip04.wav").write_text("These are words, and no sound at all, whatever the name says.\n" * 20)
    claims = bytearray((wavs / "clip05.wav").read_bytes())
    three_hours = 3 * 3600 * 16_000 * 2
    claims[4:8], claims[40:44] = struct.pack("<I", three_hours + 36), struct.pack("<I", three_hours)
    (wavs / "clip05.wav").write_bytes(bytes(claims))
    soundfile.write(wavs / "clip06.wav", np.zeros(8_000, np.float32), 16_000)
    (clips / "clip10.mp4").write_bytes(b"")
    whole = (clips / "clip11.mp4").read_bytes()
    (clips / "clip11.mp4").write_bytes(whole[: len(whole) // 3])
    (clips / "clip12.mp4").write_text("No picture.\n" * 50)
    (clips / "clip13.mp4").unlink()
    write_clip(clips / "clip41.mp4", seconds=1 / 12, seed=41, sound=False)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of fifty utterances with text, sound and picture."""
    folder = tmp_path_factory.mktemp("fifty")
    rows = []
    for number in range(COUNT):
        name = f"clip{number:02d}"
        write_sound(folder / "wavs" / f"{name}.wav", seconds=0.4, seed=number)
        write_clip(folder / "clips" / f"{name}.mp4", seconds=0.4, seed=number, sound=False)
        rows.append(
            {
                "id": name,
                "audio": f"wavs/{name}.wav",
                "video": f"clips/{name}.mp4",
                "text": " ... " if name == TEXTLESS else f"This is number {number}.",
                "label": "ab"[number % 2],
                "speaker": f"s{number % 10}",
            }
        )
    spoil(folder)
    with (folder / "corpus.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "corpus.csv"


def words_of(corpus: Path) -> list[str]:
    return ["dataset=custom", f"dataset.table={corpus}", "progress=false"]


def test_each_bad_file_is_named_skipped_and_counted(corpus: Path, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [*words_of(corpus), "trainer.max_epochs=1", "model.hidden=8"]
    assert main(["train", *words]) == 0
    (run,) = [json.loads(path.read_text()) for path in (root / "checkpoints").glob("*/run.json")]
    assert run["data"]["bad_media"] == {"text": 1, "audio": len(BAD_SOUND), "video": len(BAD_PICTURE)}
    assert sum(run["data"]["utterances"].values()) + run["data"]["left_out"] == COUNT
    assert run["data"]["left_out"] == 0  # each has another modality
    for name in (TEXTLESS, *BAD_SOUND, *BAD_PICTURE):
        assert f"  - {name}: " in caplog.text


def test_an_utterance_without_any_usable_modality_is_left_out(corpus: Path, root: Path) -> None:
    words = [*words_of(corpus), "trainer.max_epochs=1", "encoder/text=none", "encoder/video=none"]
    assert main(["train", *words]) == 0
    (run,) = [json.loads(path.read_text()) for path in (root / "checkpoints").glob("*/run.json")]
    assert run["data"]["left_out"] == len(BAD_SOUND)
    assert sum(run["data"]["utterances"].values()) == COUNT - len(BAD_SOUND)


def test_all_are_listed_where_bad_files_are_fatal(corpus: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", *words_of(corpus), "encoder/text=none", "extraction.on_bad_media=fail"]) == 2
    message = capsys.readouterr().err
    assert f"{len(BAD_SOUND)} of {COUNT} utterances" in message
    for name in BAD_SOUND:
        assert f"  - {name}: " in message


def test_bad_files_are_not_stored_and_not_tried_again(
    corpus: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*words_of(corpus), "encoder/text=none", "encoder/video=none"]
    assert main(["extract", *words]) == 0
    (entry,) = inventory(root / "cache")
    assert (entry["utterances"], entry["bad"]) == (COUNT, len(BAD_SOUND))
    caplog.clear()
    assert main(["extract", *words]) == 0
    assert f"{COUNT - len(BAD_SOUND)} found, 0 computed" in caplog.text
    for name in BAD_SOUND:
        assert f"  - {name}: " in caplog.text


def test_data_check_names_all_bad_files(corpus: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--json", *words_of(corpus)]) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    bad = {item["where"]: item["detail"] for item in problems if item["kind"] in ("broken", "missing")}
    assert set(bad) == {TEXTLESS, *BAD_SOUND, *BAD_PICTURE}
    assert ONE_FRAME not in bad
    assert "no words" in bad[TEXTLESS]
    assert "truncated" in bad["clip01"]
    assert "not numbers" in bad["clip02"]
    assert "No such file" in bad["clip13"]
