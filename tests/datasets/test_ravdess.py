"""RAVDESS is read as published, complete or in part, and problems are reported."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import soundfile

from emorec.datasets.manifest import Manifest
from emorec.datasets.ravdess import EMOTIONS, Ravdess
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from tests.conftest import SHARED_DATA, tone
from tests.datasets.conftest import Roots, configured

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
    """A small sound in both formats, and bytes for a video, since scanning a corpus does not open it."""
    folder = tmp_path_factory.mktemp("sounds")
    contents = {".mp4": b"a video"}
    for suffix in (".wav", ".flac"):
        soundfile.write(folder / f"a{suffix}", tone(0.1, rate=48_000), 48_000, subtype="PCM_16")
        contents[suffix] = (folder / f"a{suffix}").read_bytes()
    return contents


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
    assert item.metadata == {
        "channel": "speech",
        "intensity": "strong",
        "statement": 1,
        "repetition": 2,
        "gender": "female",
    }


def test_an_actor_has_60_clips_with_half_as_many_neutral_ones(write: Write) -> None:
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


def test_flac_and_wav_are_read(write: Write) -> None:
    root = write(speech_of(1)[:3], suffix=".flac")
    write(speech_of(2)[:2], suffix=".WAV")
    assert sorted(item.audio.suffix for item in scan(root).utterances if item.audio) == [".WAV"] * 2 + [".flac"] * 3


def test_a_wav_takes_precedence_over_a_flac_of_the_same_name(write: Write) -> None:
    write(speech_of(1)[:2], suffix=".flac")
    manifest = scan(write(speech_of(1)[:2], suffix=".wav"))
    assert [item.audio.suffix for item in manifest.utterances if item.audio] == [".wav", ".wav"]
    assert [item.kind for item in manifest.problems if item.fatal] == []


def test_the_same_recording_in_two_folders_is_fatal(write: Write) -> None:
    write(speech_of(1)[:1])
    root = write(speech_of(1)[:1], layout="copy")
    with pytest.raises(UserError, match=speech_of(1)[0]):
        ravdess(root).read()


def test_absent_actors_are_noted_and_incomplete_ones_reported(write: Write) -> None:
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
    with pytest.raises(UserError, match=r"expected actor 12 in Actor_12, found it in Actor_01"):
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


def test_songs_hidden_and_other_files_are_ignored(write: Write) -> None:
    root = write(speech_of(1))
    folder = root / LAYOUT / "Actor_01"
    for name in ("._01-01-01-01-01-01-01.mp4", "._03-01-01-01-01-01-01.wav", "notes.txt", "01-02-01-01-01-01-01.mp4"):
        (folder / name).write_bytes(b"not speech")
    write(["03-02-05-01-01-01-01", "01-01-01-01-01-01-01"])  # a song, and a video's sound
    manifest = scan(root)
    assert [item.id for item in manifest.utterances] == sorted(name[3:] for name in speech_of(1))
    assert {item.video for item in manifest.utterances} == {None}
    assert manifest.problems == ()


VERSIONS = {
    # existing versions of a recording: the version of its audio, the version of its video
    ("01",): ("01", "01"),
    ("02",): (None, "02"),
    ("03",): ("03", None),
    ("01", "02"): ("01", "01"),
    ("01", "03"): ("03", "01"),
    ("02", "03"): ("03", "02"),
    ("01", "02", "03"): ("03", "01"),
}


@pytest.mark.parametrize("versions", VERSIONS)
def test_the_versions_of_a_recording_are_one_utterance(write: Write, versions: tuple[str, ...]) -> None:
    for modality in versions:
        suffix, layout = (".wav", LAYOUT) if modality == "03" else (".mp4", "Video_Speech_Actor_04")
        root = write([f"{modality}-01-03-01-01-01-04"], suffix=suffix, layout=layout)
    manifest = scan(root)
    (item,) = manifest.utterances
    assert item.id == "01-03-01-01-01-04"
    used = tuple(None if path is None else path.name[:2] for path in (item.audio, item.video))
    assert used == VERSIONS[versions]
    assert [problem.kind for problem in manifest.problems] == ["missing"]  # the actor's other 59 clips


def test_a_modality_that_some_utterances_lack_is_noted(write: Write) -> None:
    write(["02-01-03-01-01-01-04"], suffix=".mp4")
    root = write(["03-01-04-01-01-01-04"])
    notes = scan(root).notes
    assert notes[1:] == ("audio: 1 of 2 utterances have a file", "video: 1 of 2 utterances have a file")


def test_the_same_video_in_two_folders_is_fatal(write: Write) -> None:
    write(["01-01-03-01-01-01-04"], suffix=".mp4")
    root = write(["01-01-03-01-01-01-04"], suffix=".mp4", layout="copy")
    with pytest.raises(UserError, match="01-01-03-01-01-01-04: found both"):
        ravdess(root).read()


def test_a_video_in_the_folder_of_another_actor_is_fatal(write: Write) -> None:
    root = write(["01-01-03-01-01-01-04"], suffix=".mp4", folder="Actor_05")
    with pytest.raises(UserError, match=r"expected actor 04 in Actor_04, found it in Actor_05"):
        ravdess(root).read()


def songs_of(actor: int) -> list[str]:
    """The names of an actor's 44 songs: six emotions."""
    return [name.replace("03-01-", "03-02-", 1) for name in speech_of(actor) if name[6:8] not in ("07", "08")]


@pytest.mark.parametrize(
    ("channel", "counts"),
    [("speech", {"speech": 60}), ("song", {"song": 44}), ("both", {"speech": 60, "song": 44})],
)
def test_the_channel_selects_speech_songs_or_both(write: Write, channel: str, counts: dict[str, int]) -> None:
    write(speech_of(5))
    root = write(songs_of(5), layout="Audio_Song_Actors_01-24")
    manifest = ravdess(root, channel=channel).read()
    assert Counter(item.metadata["channel"] for item in manifest.utterances) == counts
    assert manifest.problems == ()
    assert manifest.tasks["emotion"].labels == EMOTIONS
    assert len({item.id for item in manifest.utterances}) == sum(counts.values())


def test_songs_of_disgust_or_surprise_are_left_out_and_reported(write: Write) -> None:
    root = write([*songs_of(5), "03-02-07-01-01-01-05", "03-02-08-01-01-01-05"])
    manifest = ravdess(root, channel="song").read()
    assert len(manifest.utterances) == 44
    assert {item.targets["emotion"] for item in manifest.utterances} == set(range(6))
    assert [(item.kind, item.fatal) for item in manifest.problems] == [("name", False)] * 2


def test_actor_18_is_not_expected_in_songs(write: Write) -> None:
    for actor in range(1, 25):
        write(speech_of(actor)[:1])
        root = write([] if actor == 18 else songs_of(actor)[:1])
    assert ravdess(root, channel="song").read().notes == ()
    manifest = ravdess(root, channel="both").read()
    assert manifest.notes == ()
    assert [item.detail for item in manifest.problems if item.where == "Actor_18"] == [
        "expected 60 speech clips, found 1"
    ]
    assert [item.detail for item in manifest.problems if item.where == "Actor_17"] == [
        "expected 44 song clips, found 1",
        "expected 60 speech clips, found 1",
    ]


def test_actors_absent_from_one_channel_are_noted_for_that_channel(write: Write) -> None:
    for actor in range(1, 24):
        root = write(speech_of(actor))
        write(songs_of(actor) if actor not in (7, 18) else [])
    manifest = ravdess(root, channel="both").read()
    assert manifest.notes == ("absent actors: 24", "absent actors (song): 07")
    assert manifest.problems == ()


def test_an_absent_channel_is_one_note(write: Write) -> None:
    for actor in range(1, 25):
        root = write(speech_of(actor))
    manifest = ravdess(root, channel="both").read()
    assert manifest.notes == ("no song clips",)
    assert manifest.problems == ()
    with pytest.raises(UserError, match=r"expected song .*found none"):
        ravdess(root, channel="song").read()


def test_seven_classes_count_calm_as_neutral(write: Write) -> None:
    manifest = ravdess(write(speech_of(7)), classes=7).read()
    labels = manifest.tasks["emotion"].labels
    assert labels == ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    counts = Counter(labels[int(item.targets["emotion"])] for item in manifest.utterances)  # type: ignore[arg-type]
    assert counts == {"neutral": 12, **dict.fromkeys(labels[1:], 8)}
    eight = ravdess(manifest_root(manifest)).read()
    assert eight.digest != manifest.digest
    for item, other in zip(manifest.utterances, eight.utterances, strict=True):
        label = EMOTIONS[int(other.targets["emotion"])]  # type: ignore[arg-type]
        assert labels[int(item.targets["emotion"])] == ("neutral" if label == "calm" else label)  # type: ignore[arg-type]


def manifest_root(manifest: Manifest) -> Path:
    path = manifest.utterances[0].audio
    assert path is not None
    return path.parents[2]


@pytest.mark.parametrize(
    ("key", "value", "expected"), [("channel", "singing", "'speech', 'song' or 'both'"), ("classes", 6, "8 or 7")]
)
def test_an_unknown_channel_or_number_of_classes_is_an_error(
    tmp_path: Path, key: str, value: object, expected: str
) -> None:
    with pytest.raises(UserError, match=rf"dataset\.{key}: expected {expected}, got {value!r}"):
        configured("ravdess", tmp_path, **{key: value})


def test_the_small_corpus_has_every_kind_of_version(small_corpus: Roots) -> None:
    manifest = ravdess(small_corpus("ravdess"), channel="both").read()

    def kind(item: Utterance) -> tuple[str, ...]:
        return tuple("none" if path is None else path.name[:2] for path in (item.audio, item.video))

    counts = {channel: Counter[tuple[str, ...]]() for channel in ("speech", "song")}
    for item in manifest.utterances:
        counts[str(item.metadata["channel"])][kind(item)] += 1
    assert counts["speech"] == {("03", "none"): 28, ("03", "01"): 21, ("01", "01"): 7, ("none", "02"): 7}
    assert counts["song"] == {("03", "none"): 30, ("03", "01"): 6}
    assert {item.speaker for item in manifest.utterances if item.metadata["channel"] == "speech"} > {"18"}
    assert "18" not in {item.speaker for item in manifest.utterances if item.metadata["channel"] == "song"}


def test_the_digest_changes_with_the_utterances(write: Write) -> None:
    before = scan(write(speech_of(1)[:4])).digest
    assert scan(write(speech_of(1)[:5])).digest != before


def test_the_error_for_a_missing_folder_says_how_to_get_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        scan(tmp_path / "nothing" / "ravdess")
    for word in (str(tmp_path / "nothing" / "ravdess"), "dataset=ravdess", "dataset.root", "EMOREC_DATA", "1188976"):
        assert word in str(caught.value)


def test_a_folder_without_recordings_is_fatal(tmp_path: Path) -> None:
    (tmp_path / LAYOUT / "Actor_01").mkdir(parents=True)
    with pytest.raises(UserError, match="found none"):
        ravdess(tmp_path).read()


def test_a_linked_folder_is_read(write: Write, tmp_path: Path) -> None:
    root = write(speech_of(1)[:4])
    shutil.move(root / LAYOUT, tmp_path / "other_disk")
    (root / LAYOUT).symlink_to(tmp_path / "other_disk")
    assert len(scan(root).utterances) == 4


def test_the_local_copy_is_complete() -> None:
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
