"""A clip at which a decoder crashes or hangs: the command names it and goes on, or ends when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.datasets.fixtures.media import write_sound
from tests.conftest import REPOSITORY
from tests.media.damaged_decoder import damage_decoders

SECONDS = 60.0  # for a command that imports torch


def write_corpus(folder: Path, name: str) -> list[str]:
    """Writes four sounds, one of this name, and returns the overrides that read them."""
    lines = ["id,audio,label,speaker"]
    for number, clip in enumerate(("a", "b", "c", name)):
        write_sound(folder / f"{clip}.wav", seconds=0.4, seed=number)
        lines.append(f"{clip},{clip}.wav,{'ab'[number % 2]},s{number}")
    (folder / "corpus.csv").write_text("\n".join(lines))
    return ["dataset=custom", f"dataset.table={folder / 'corpus.csv'}", "progress=false"]


def test_data_check_names_the_clip_at_which_a_decoder_crashes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_corpus(tmp_path, "segfault")
    damage_decoders(tmp_path, monkeypatch)
    main(["data", "check", "--json", *words])
    report = json.loads(capsys.readouterr().out)
    broken = {item["where"]: item["detail"] for item in report["problems"] if item["kind"] == "broken"}
    assert broken == {"segfault": f"audio: decoding ended with SIGSEGV ({tmp_path / 'segfault.wav'})"}
    assert report["seconds"]["audio"]["total"] == pytest.approx(1.2)


@pytest.mark.parametrize("command", ["extract", "data check"])
def test_an_interrupt_ends_a_command_whose_decoder_hangs(
    command: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = write_corpus(tmp_path, "hang")
    damage_decoders(tmp_path, monkeypatch)
    encoders = ["encoder/text=none", "encoder/video=none"] if command == "extract" else []
    with subprocess.Popen(
        [sys.executable, "-m", "emorec", *command.split(), *words, *encoders],
        cwd=REPOSITORY,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        due = time.monotonic() + SECONDS
        hanging = tmp_path / "hang.wav.pid"
        while not (hanging.exists() and hanging.read_text()) and time.monotonic() < due:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, message
    assert not Path("/proc", hanging.read_text().strip()).exists()
