"""RAVDESS is read as its authors ship it, whole or in part, and says what does not fit."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import soundfile

from emorec.datasets.manifest import Manifest
from emorec.datasets.ravdess import Ravdess
from emorec.errors import UserError
from tests.conftest import SHARED_DATA, tone

LAYOUT = "Audio_Speech_Actors_01-24"

Write = Callable[..., Path]


def ravdess(root: Path, **options: object) -> Ravdess:
    return Ravdess(root=str(root), **{"task": "emotion", "protocol": "five_fold", "fold": 0, **options})  # type: ignore[arg-type]


def scan(root: Path) -> Manifest:
    return ravdess(root).scan()


def speech_of(actor: int) -> list[str]:
    """The names of an actor's 60 speech clips: two of each emotion, intensity and statement, no strong neutral."""
    return [
        f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
        for emotion in range(1, 9)
        for intensity in ((1,) if emotion == 1 else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
    ]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One small sound in both formats."""
    folder = tmp_path_factory.mktemp("sounds")
    found = {}
    for suffix in (".wav", ".flac"):
        soundfile.write(folder / f"a{suffix}", tone(0.1, rate=48_000), 48_000, subtype="PCM_16")
        found[suffix] = (folder / f"a{suffix}").read_bytes()
    return found


@pytest.fixture
def write(tmp_path: Path, sounds: dict[str, bytes]) -> Write:
    """Writes recordings into an actor's folder of a corpus and returns the corpus's root."""

    def write_recordings(
        names: Iterable[str], *, folder: str | None = None, suffix: str = ".wav", layout: str = LAYOUT
    ) -> Path:
        for name in names:
            path = tmp_path / "ravdess" / layout / (folder or f"Actor_{name[-2:]}") / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sounds[suffix.lower()])
        return tmp_path / "ravdess"

    return write_recordings


def test_each_part_of_a_file_name_is_read(write: Write) -> None:
    root = write(["03-01-06-02-01-02-12"])
    (item,) = scan(root).utterances
    assert item.id == "01-06-02-01-02-12"
    assert item.audio == root / LAYOUT / "Actor_12" / "03-01-06-02-01-02-12.wav"
    assert item.video is None
    assert item.text == "Kids are talking by the door"
    assert item.speaker == "12"
    assert scan(root).tasks["emotion"].labels[int(item.targets["emotion"])] == "fearful"  # type: ignore[arg-type]
    assert item.metadata == {"intensity": "strong", "statement": 1, "repetition": 2, "gender": "female"}


def test_a_whole_actor_has_60_clips_with_neutral_half_as_often(write: Write) -> None:
    manifest = scan(write(speech_of(7)))
    assert len(manifest.utterances) == 60
    assert Counter(item.targets["emotion"] for item in manifest.utterances) == {0: 4, **dict.fromkeys(range(1, 8), 8)}
    assert Counter(item.text for item in manifest.utterances) == {
        "Kids are talking by the door": 30,
        "Dogs are sitting by the door": 30,
    }
    assert {item.metadata["gender"] for item in manifest.utterances} == {"male"}
    assert manifest.problems == ()


@pytest.mark.parametrize("layout", [LAYOUT, "", "unpacked/once/more"])
def test_actor_folders_are_found_in_any_folder_under_the_root(write: Write, layout: str) -> None:
    root = write(speech_of(1)[:3], layout=layout)
    assert len(scan(root).utterances) == 3


def test_flac_is_read_as_well_as_wav(write: Write) -> None:
    root = write(speech_of(1)[:3], suffix=".flac")
    write(speech_of(2)[:2], suffix=".WAV")
    assert sorted(item.audio.suffix for item in scan(root).utterances if item.audio) == [".WAV"] * 2 + [".flac"] * 3


def test_of_a_wav_and_a_flac_of_the_same_name_the_wav_is_taken(write: Write) -> None:
    write(speech_of(1)[:2], suffix=".flac")
    manifest = scan(write(speech_of(1)[:2], suffix=".wav"))
    assert [item.audio.suffix for item in manifest.utterances if item.audio] == [".wav", ".wav"]
    assert [item.kind for item in manifest.problems if item.fatal] == []


def test_the_same_recording_in_two_places_is_fatal(write: Write) -> None:
    write(speech_of(1)[:1])
    root = write(speech_of(1)[:1], layout="copy")
    with pytest.raises(UserError, match=speech_of(1)[0]):
        ravdess(root).read()


def test_a_partial_corpus_notes_absent_actors_and_counts_short_ones(write: Write) -> None:
    write(speech_of(3))
    manifest = scan(write(speech_of(5)[:58]))
    present = {3, 5}
    absent = ", ".join(f"{actor:02d}" for actor in range(1, 25) if actor not in present)
    assert manifest.notes == (f"absent actors: {absent}",)
    assert [(item.where, item.detail, item.fatal) for item in manifest.problems] == [
        ("Actor_05", "expected 60 speech clips, found 58", False)
    ]
    assert manifest.speakers == ("03", "05")


def test_a_whole_corpus_has_no_notes(write: Write) -> None:
    for actor in range(1, 25):
        root = write(speech_of(actor)[:2])
    assert scan(root).notes == ()


def test_a_recording_in_the_folder_of_another_actor_is_fatal(write: Write) -> None:
    write(speech_of(1))
    root = write(["03-01-06-02-01-02-12"], folder="Actor_01")
    with pytest.raises(UserError, match=r"expected actor 12 under Actor_12, found it under Actor_01"):
        ravdess(root).read()


@pytest.mark.parametrize(
    "name",
    ["03-01-09-01-01-01-01", "03-01-01-01-01-01-25", "03-01-01-01-01-01-00", "03-01-01-01-01-01", "my recording"],
)
def test_a_bad_name_is_left_out_and_reported(write: Write, name: str) -> None:
    write(speech_of(1))
    root = write([name], folder="Actor_01")
    manifest = ravdess(root).read()
    assert len(manifest.utterances) == 60
    (problem,) = manifest.problems
    assert (problem.kind, problem.fatal) == ("name", False)
    assert problem.where.endswith(f"Actor_01/{name}.wav")
    assert "MM-VC-EE-II-SS-RR-AA" in problem.detail


def test_videos_songs_and_other_files_are_ignored(write: Write) -> None:
    root = write(speech_of(1))
    folder = root / LAYOUT / "Actor_01"
    for name in ("01-01-01-01-01-01-01.mp4", "02-01-01-01-01-01-01.mp4", "._03-01-01-01-01-01-01.wav", "notes.txt"):
        (folder / name).write_bytes(b"not speech")
    write(["03-02-05-01-01-01-01", "01-01-01-01-01-01-01"])  # a song, and a video's sound
    manifest = scan(root)
    assert [item.id for item in manifest.utterances] == sorted(name[3:] for name in speech_of(1))
    assert manifest.problems == ()


def test_the_digest_does_not_change_when_the_corpus_is_moved(write: Write, tmp_path: Path) -> None:
    root = write(speech_of(1)[:4])
    before = scan(root).digest
    moved = tmp_path / "elsewhere" / "corpus"
    shutil.move(root, moved)
    assert scan(moved).digest == before


def test_the_digest_changes_with_the_utterances(write: Write) -> None:
    before = scan(write(speech_of(1)[:4])).digest
    assert scan(write(speech_of(1)[:5])).digest != before


def test_a_missing_folder_says_where_it_was_looked_for_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        scan(tmp_path / "nothing" / "ravdess")
    for word in (str(tmp_path / "nothing" / "ravdess"), "dataset=ravdess", "dataset.root", "EMOREC_DATA", "1188976"):
        assert word in str(caught.value)


def test_a_folder_without_recordings_is_fatal(tmp_path: Path) -> None:
    (tmp_path / LAYOUT / "Actor_01").mkdir(parents=True)
    with pytest.raises(UserError, match="found none"):
        ravdess(tmp_path).read()


def test_an_archive_folder_that_is_a_link_to_another_disk_is_read(write: Write, tmp_path: Path) -> None:
    root = write(speech_of(1)[:4])
    shutil.move(root / LAYOUT, tmp_path / "other_disk")
    (root / LAYOUT).symlink_to(tmp_path / "other_disk")
    assert len(scan(root).utterances) == 4


def test_the_copy_on_this_machine_is_read_whole() -> None:
    root = SHARED_DATA / "ravdess"
    if not root.is_dir():
        pytest.skip("no ravdess/ in the folder of corpora (EMOREC_DATA)")
    manifest = ravdess(root).read()
    assert len(manifest.utterances) == 1200
    counts = Counter(item.targets["emotion"] for item in manifest.utterances)
    assert counts == {0: 80, **dict.fromkeys(range(1, 8), 160)}
    assert manifest.notes == ("absent actors: 01, 04, 09, 22",)
    assert manifest.problems == ()
    splits = ravdess(root, fold=0).split(manifest)
    assert {item.speaker for item in splits["test"]} == {"02", "05", "14", "15", "16"}
    assert {name: len(items) for name, items in splits.items()} == {"train": 780, "val": 120, "test": 300}
