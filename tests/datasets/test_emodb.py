"""EmoDB is read from the names of its files, complete or in part."""

from pathlib import Path

import pytest

from emorec.datasets.emodb import ACTORS, COUNTS, EMOTIONS, SENTENCES, EmoDb
from emorec.errors import UserError
from tests.datasets.conftest import Roots, write_files

LETTERS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happy", "N": "neutral", "T": "sadness"}


def emodb(root: Path) -> EmoDb:
    return EmoDb(root=str(root), task="emotion", protocol="leave_one_speaker_out", fold=0)


def test_each_part_of_a_file_name_is_read(tmp_path: Path) -> None:
    root = write_files(
        tmp_path, "emodb/wav/03a01Fa.wav", "emodb/wav/16b10N.wav", "emodb/wav/._03a01Fa.wav", "emodb/db.csv"
    )
    first, second = emodb(root).read().utterances
    assert (first.id, first.speaker, first.text) == ("03a01Fa", "03", "Der Lappen liegt auf dem Eisschrank.")
    assert first.audio == root / "emodb" / "wav" / "03a01Fa.wav"
    assert first.metadata == {"sentence": "a01", "version": "a", "gender": "male", "age": 31}
    assert second.metadata == {"sentence": "b10", "version": "", "gender": "female", "age": 31}


@pytest.mark.parametrize(("letter", "label"), LETTERS.items())
def test_every_emotion_has_its_label(tmp_path: Path, letter: str, label: str) -> None:
    manifest = emodb(write_files(tmp_path, f"wav/08a02{letter}b.wav")).read()
    number = manifest.utterances[0].targets["emotion"]
    assert manifest.tasks["emotion"].labels[int(number)] == label  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["04a01Fa", "03a03Fa", "03a01Xa", "03a01F1", "03a01"])
def test_a_bad_name_is_left_out_and_reported(tmp_path: Path, name: str) -> None:
    manifest = emodb(write_files(tmp_path, "wav/03a01Fa.wav", f"wav/{name}.wav")).read()
    assert len(manifest.utterances) == 1
    assert [(problem.kind, problem.fatal) for problem in manifest.problems] == [("name", False)]


def test_a_recording_that_is_there_twice_and_a_folder_without_any_are_fatal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected wav/03a01Fa\.wav and others, found none"):
        emodb(tmp_path).read()
    with pytest.raises(UserError, match="found both"):
        emodb(write_files(tmp_path, "wav/03a01Fa.wav", "copy/03a01Fa.wav")).read()


def test_a_part_of_the_corpus_says_so_and_the_whole_is_counted(tmp_path: Path, small_corpus: Roots) -> None:
    assert emodb(write_files(tmp_path / "part", "wav/03a01Fa.wav")).read().notes == ("1 of 10 actors",)
    small = emodb(small_corpus("emodb")).read()
    assert len(small.speakers) == 10
    assert (small.notes, small.problems) == ((), ())
    names = [f"{a}{s}{e}{v}" for a in ACTORS for s in SENTENCES for e in EMOTIONS for v in "a"][: sum(COUNTS.values())]
    problems = emodb(write_files(tmp_path / "whole", *(f"wav/{name}.wav" for name in names))).read().problems
    assert "expected 127 utterances of anger as published" in problems[0].detail
