"""CREMA-D is read from the names of its clips, complete or in part."""

from collections import Counter
from pathlib import Path

import pytest

from emorec.datasets.crema_d import ACTORS, SENTENCES, CremaD
from emorec.errors import UserError
from tests.conftest import SHARED_DATA
from tests.datasets.conftest import Roots, by_id, write_files

LABELS = ("anger", "disgust", "fear", "happy", "neutral", "sad")
BAD = {"1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX"}


def crema_d(root: Path) -> CremaD:
    return CremaD(root=str(root), task="emotion", protocol="five_fold", fold=0)


@pytest.fixture
def small(small_corpus: Roots) -> Path:
    return small_corpus("crema_d")


def test_each_part_of_a_file_name_is_read(tmp_path: Path) -> None:
    root = write_files(tmp_path, "AudioWAV/1042_ITH_FEA_LO.wav", "VideoFlash/1042_ITH_FEA_LO.flv")
    (item,) = crema_d(root).read().utterances
    assert item.id == "1042_ITH_FEA_LO"
    assert item.audio == root / "AudioWAV" / "1042_ITH_FEA_LO.wav"
    assert item.video == root / "VideoFlash" / "1042_ITH_FEA_LO.flv"
    assert item.text == "I think I have a doctor's appointment"
    assert item.speaker == "1042"
    assert LABELS[int(item.targets["emotion"])] == "fear"  # type: ignore[arg-type]
    assert item.metadata == {"level": "low", "sentence": "ITH"}


@pytest.mark.parametrize(("code", "label"), zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), LABELS, strict=True))
def test_every_emotion_has_its_label(tmp_path: Path, code: str, label: str) -> None:
    manifest = crema_d(write_files(tmp_path, f"AudioWAV/1001_DFA_{code}_XX.wav")).read()
    task = manifest.tasks["emotion"]
    assert task.labels == LABELS
    assert task.labels[int(manifest.utterances[0].targets["emotion"])] == label  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "level"), [("LO", "low"), ("MD", "medium"), ("HI", "high"), ("XX", "unspecified")])
def test_every_level_is_read(tmp_path: Path, code: str, level: str) -> None:
    (item,) = crema_d(write_files(tmp_path, f"AudioWAV/1001_IEO_ANG_{code}.wav")).read().utterances
    assert item.metadata["level"] == level


def test_every_sentence_has_its_text(tmp_path: Path) -> None:
    root = write_files(tmp_path, *(f"AudioWAV/1001_{code}_ANG_XX.wav" for code in SENTENCES))
    texts = {item.metadata["sentence"]: item.text for item in crema_d(root).read().utterances}
    assert len(texts) == len(set(texts.values())) == 12
    assert texts["TSI"] == "The surface is slick"
    assert texts["DFA"] == "Don't forget a jacket"


def test_one_modality_is_enough(tmp_path: Path) -> None:
    root = write_files(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", "VideoFlash/1002_DFA_ANG_XX.flv")
    manifest = crema_d(root).read()
    one, other = manifest.utterances
    assert (one.audio is None, one.video is None) == (False, True)
    assert other.audio == other.video == root / "VideoFlash" / "1002_DFA_ANG_XX.flv"
    assert manifest.notes == ("2 of 91 actors", "video: 1 of 2 utterances have a file")


def test_clips_reported_as_bad_keep_only_their_text(small: Path) -> None:
    manifest = crema_d(small).read()
    assert (small / "AudioWAV" / "1064_IEO_DIS_MD.wav").is_file()
    without = {item.id for item in manifest.utterances if item.audio is None and item.video is None}
    assert without == BAD
    assert all(item.text for item in manifest.utterances)
    assert all(item.audio and item.video for item in manifest.utterances if item.id not in BAD)
    assert manifest.notes == (
        "8 of 91 actors",
        f"audio and video left out, reported as bad: {', '.join(sorted(BAD))}",
    )
    assert manifest.problems == ()


def test_the_misnamed_clip_gets_its_correct_name(small: Path) -> None:
    item = by_id(crema_d(small).read(), "1040_ITH_SAD_XX")
    assert item.audio == small / "AudioWAV" / "1040_ITH_SAD_X.wav"
    assert item.video == small / "VideoFlash" / "1040_ITH_SAD_X.flv"
    assert item.metadata["level"] == "unspecified"


@pytest.mark.parametrize(
    "name",
    ["1001_DFA_ANG", "1001_DFA_ANG_YY", "1001_XYZ_ANG_XX", "1001_DFA_JOY_XX", "1092_DFA_ANG_XX", "1001_ITH_SAD_X"],
)
def test_a_bad_name_is_left_out_and_reported(tmp_path: Path, name: str) -> None:
    root = write_files(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", f"AudioWAV/{name}.wav")
    manifest = crema_d(root).read()
    assert len(manifest.utterances) == 1
    (problem,) = manifest.problems
    assert (problem.kind, problem.fatal) == ("name", False)
    assert problem.where.endswith(f"AudioWAV/{name}.wav")


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    root = write_files(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/._1001_DFA_SAD_XX.wav", "AudioWAV/notes.txt")
    manifest = crema_d(root).read()
    assert len(manifest.utterances) == 1
    assert manifest.problems == ()


def test_the_table_of_actors_is_optional(small: Path, tmp_path: Path) -> None:
    item = by_id(crema_d(small).read(), "1005_DFA_SAD_XX")
    assert item.metadata == {
        "level": "unspecified",
        "sentence": "DFA",
        "age": 29,
        "sex": "Male",
        "race": "African American",
        "ethnicity": "Not Hispanic",
    }
    root = write_files(tmp_path, "AudioWAV/1005_DFA_SAD_XX.wav")
    assert crema_d(root).read().utterances[0].metadata.keys() == {"level", "sentence"}


def test_an_invalid_table_of_actors_is_reported_but_not_fatal(tmp_path: Path) -> None:
    root = write_files(tmp_path, "AudioWAV/1005_DFA_SAD_XX.wav", "VideoDemographics.csv")
    manifest = crema_d(root).read()
    assert [(item.kind, item.fatal) for item in manifest.problems] == [("column", False)]
    assert manifest.utterances[0].metadata.keys() == {"level", "sentence"}


def test_the_clips_of_a_corpus_with_all_actors_are_counted(tmp_path: Path) -> None:
    names = [f"{actor}_{sentence}_ANG_XX" for actor in ACTORS for sentence in SENTENCES]
    manifest = crema_d(write_files(tmp_path, *(f"AudioWAV/{name}.wav" for name in names))).read()
    assert [(item.kind, item.detail, item.fatal) for item in manifest.problems] == [
        ("count", "expected 7442 clips of 91 actors, found 1092", False)
    ]
    assert manifest.notes == ()


def test_a_corpus_with_7442_clips_of_all_actors_has_no_problems(tmp_path: Path) -> None:
    names = [
        f"{actor}_{sentence}_{emotion}_{level}"
        for level in ("XX", "MD")
        for sentence in SENTENCES
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
        for actor in ACTORS
    ][:7442]
    manifest = crema_d(write_files(tmp_path, *(f"AudioWAV/{name}.wav" for name in names))).read()
    assert len(manifest.utterances) == 7442
    assert manifest.problems == ()


def test_a_folder_without_clips_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected AudioWAV/\*\.wav or VideoFlash/\*\.flv, found none"):
        crema_d(tmp_path).read()


def test_the_local_copy_is_complete() -> None:
    root = SHARED_DATA / "crema_d"
    if not root.is_dir():
        pytest.skip("no crema_d/ in the folder of corpora (EMOREC_DATA)")
    manifest = crema_d(root).read()
    assert len(manifest.utterances) == 7442
    assert len(Counter(item.speaker for item in manifest.utterances)) == 91
