"""IEMOCAP is read from evaluations, transcripts, sentences and dialogues, complete or in part."""

import shutil
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from emorec.datasets.iemocap import RELEASE, Iemocap
from emorec.errors import UserError
from tests.conftest import SHARED_DATA
from tests.datasets.conftest import Roots, by_id, configured

FOUR = ("neutral", "happy", "sad", "angry")
SIX = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
DIALOGUE = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"


def iemocap(root: Path, **options: object) -> Iemocap:
    defaults = {"task": "emotion", "protocol": "leave_one_session_out", "fold": 0}
    return Iemocap(root=str(root), **{**defaults, **options})  # type: ignore[arg-type]


def summary(name: str, label: str = "neu", start: float = 0.0, dimensions: str = "2.5000, 2.5000, 2.5000") -> str:
    return f"[{start:.4f} - {start + 1:.4f}]\t{name}\t{label}\t[{dimensions}]"


def write_evaluation(root: Path, lines: list[str], dialogue: str = "Ses01F_impro01") -> Path:
    """Writes the evaluation and the transcript of a dialogue, without media, and returns the release's folder."""
    names = [line.split("\t")[1] for line in lines if line.startswith("[")]
    files = {
        "EmoEvaluation": ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", "", *lines],
        "transcriptions": [f"{name} [000.0000-001.0000]: Yeah." for name in names],
    }
    for folder, content in files.items():
        path = root / f"Session{dialogue[4]}" / "dialog" / folder / f"{dialogue}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(content) + "\n")
    return root


@pytest.fixture
def small(small_corpus: Roots) -> Path:
    return small_corpus("iemocap")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The release's folder of a copy that a test may change."""
    shutil.copytree(small, tmp_path / "iemocap")
    return tmp_path / "iemocap" / RELEASE


def test_an_utterance_has_the_annotations_of_all_files(small: Path) -> None:
    manifest = iemocap(small).read()
    item = by_id(manifest, "Ses02F_impro01_M002")
    session = small / RELEASE / "Session2"
    assert item.audio == session / "sentences" / "wav" / "Ses02F_impro01" / "Ses02F_impro01_M002.wav"
    assert item.video == session / "dialog" / "avi" / "DivX" / "Ses02F_impro01.avi"
    assert (item.start, item.end) == (2.5, 2.9)
    assert item.text == "Oh, no. It was in Ses02F_impro01."
    assert (item.speaker, item.session, item.dialogue, item.turn) == ("Ses02M", "Session2", "Ses02F_impro01", 5)
    assert item.metadata == {"scenario": "improvised", "gender": "male"}
    assert by_id(manifest, "Ses02F_script01_1_F000").metadata == {"scenario": "scripted", "gender": "female"}
    assert len(manifest.utterances) == 5 * 3 * 8
    assert manifest.speakers == tuple(f"Ses0{number}{gender}" for number in range(1, 6) for gender in "FM")


def test_the_root_is_the_release_or_its_parent(small: Path) -> None:
    assert iemocap(small).read().digest == iemocap(small / RELEASE).read().digest


def test_four_classes_count_excited_as_happy_and_leave_out_the_rest(small: Path) -> None:
    manifest = iemocap(small).read()
    assert manifest.tasks["emotion"].labels == FOUR
    counts = Counter(item.targets.get("emotion") for item in manifest.utterances)
    assert counts == {0: 30, 1: 30, 2: 15, 3: 15, None: 30}


def test_six_classes_keep_excited_and_frustrated(small: Path) -> None:
    manifest = iemocap(small, classes=6).read()
    assert manifest.tasks["emotion"].labels == SIX
    counts = Counter(item.targets.get("emotion") for item in manifest.utterances)
    assert counts == {0: 15, 1: 15, 2: 30, 3: 15, 4: 15, 5: 15, None: 15}


def test_another_number_of_classes_is_an_error(small: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.classes: expected 4 or 6, got 5"):
        configured("iemocap", small, classes=5)


@pytest.mark.parametrize("classes", [4, 6])
def test_the_label_is_the_consensus(tmp_path: Path, classes: int) -> None:
    codes = ("neu", "hap", "sad", "ang", "exc", "fru", "fea", "sur", "dis", "oth", "xxx")
    lines = [summary(f"Ses01F_impro01_F{number:03d}", code, number) for number, code in enumerate(codes)]
    manifest = iemocap(write_evaluation(tmp_path, lines), classes=classes).read()
    labels = manifest.tasks["emotion"].labels
    label_of = {
        code: labels[int(item.targets["emotion"])]  # type: ignore[arg-type]
        for code, item in zip(codes, manifest.utterances, strict=True)
        if "emotion" in item.targets
    }
    both = {"neu": "neutral", "hap": "happy", "sad": "sad", "ang": "angry"}
    assert label_of == both | ({"exc": "happy"} if classes == 4 else {"exc": "excited", "fru": "frustrated"})


def test_every_utterance_has_valence_activation_and_dominance(small: Path) -> None:
    dataset = iemocap(small, task="activation")
    manifest = dataset.read()
    for name in ("valence", "activation", "dominance"):
        task = manifest.tasks[name]
        assert (task.kind, task.labels, task.monitor, task.direction) == ("regression", (name,), "ccc", "max")
    without_class = next(item for item in manifest.utterances if "emotion" not in item.targets)
    assert {"valence", "activation", "dominance"} <= without_class.targets.keys()
    assert sum(map(len, dataset.split(manifest).values())) == 120


def test_the_three_dimensions_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    root = write_evaluation(tmp_path, [summary("Ses01F_impro01_F000", dimensions="1.5000, 2.3333, 5")])
    (item,) = iemocap(root).read().utterances
    assert [item.targets[name] for name in ("valence", "activation", "dominance")] == [1.5, 2.3333, 5.0]


VOTES = [
    # raters' lines, shares of four classes, shares of six
    (["C-E1:\tNeutral;\t()", "C-E2:\tNeutral;\t()"], (1, 0, 0, 0), (0, 0, 1, 0, 0, 0)),
    (["C-E1:\tNeutral;\t()", "C-E2:\tSadness;\t()"], (0.5, 0, 0.5, 0), (0, 0.5, 0.5, 0, 0, 0)),
    (["C-E1:\tHappiness; Excited;\t()", "C-E2:\tExcited;\t()"], (0, 1, 0, 0), (0.25, 0, 0, 0, 0.75, 0)),
    (["C-E1:\tAnger; Sadness;\t()", "C-E2:\tAnger;\t()"], (0, 0, 0.25, 0.75), (0, 0.25, 0, 0.75, 0, 0)),
    (["C-E1:\tAnger;\t()", "C-E2:\tFrustration;\t()"], (0, 0, 0, 1), (0, 0, 0, 0.5, 0, 0.5)),
    (["C-E1:\tAnger; Frustration\t(upset)", "C-E2:\tOther;\t(confused; lost)"], (0, 0, 0, 1), (0, 0, 0, 0.5, 0, 0.5)),
    (["C-E1:\tFrustration;\t()", "C-E2:\tSurprise;\t()"], None, (0, 0, 0, 0, 0, 1)),
    (["C-E1:\tOther;\t()", "C-E2:\tFear; Disgust;\t()"], None, None),
    (["C-E10:\tSadness;\t()", "C-F1:\tAnger;\t()", "C-M1:\tAnger;\t()"], (0, 0, 1, 0), (0, 1, 0, 0, 0, 0)),
    (["C-F1:\tNeutral;\t()"], None, None),
    (["C-E1:\tNeutral; Neutral;\t()", "C-E2:\tSadness; \t()"], (0.5, 0, 0.5, 0), (0, 0.5, 0.5, 0, 0, 0)),
    (["C-E1:\t;\t()", "C-E2:\tSadness;\t()", "A-E1:\tval 3; act 2; dom 2;\t()"], (0, 0, 1, 0), (0, 1, 0, 0, 0, 0)),
    (["A-E1:\tval 3; act 2; dom 2;\t()"], None, None),
]


@pytest.mark.parametrize(("lines", "four", "six"), VOTES)
def test_votes_of_outside_raters_are_shares_of_the_classes(
    tmp_path: Path, lines: list[str], four: tuple[float, ...] | None, six: tuple[float, ...] | None
) -> None:
    root = write_evaluation(tmp_path, [summary("Ses01F_impro01_F000"), *lines])
    for classes, expected in ((4, four), (6, six)):
        (item,) = iemocap(root, classes=classes).read().utterances
        votes = item.targets.get("emotion_votes")
        assert votes == (None if expected is None else pytest.approx(expected))


def test_votes_belong_to_the_turn_above_them(tmp_path: Path) -> None:
    first, second = summary("Ses01F_impro01_F000"), summary("Ses01F_impro01_M000", "sad", 2)
    lines = [first, "C-E1:\tNeutral;\t()", "", second, "C-E1:\tSadness;\t()"]
    one, other = iemocap(write_evaluation(tmp_path, lines)).read().utterances
    assert one.targets["emotion_votes"] == (1, 0, 0, 0)
    assert other.targets["emotion_votes"] == (0, 0, 1, 0)


def test_votes_do_not_replace_a_consensus(small: Path) -> None:
    manifest = iemocap(small).read()
    assert "emotion_votes" not in manifest.tasks
    lone = [item for item in manifest.utterances if "emotion" not in item.targets]
    assert any("emotion_votes" in item.targets for item in lone)
    kept = {item.id for items in iemocap(small).split(manifest).values() for item in items}
    assert not kept & {item.id for item in lone}


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Ses01F_impro01_F000", "left"),
        ("Ses01F_impro01_M000", "right"),
        ("Ses01M_impro01_M000", "left"),
        ("Ses01M_impro01_F000", "right"),
        ("Ses05F_script01_1_F001", "left"),
    ],
)
def test_the_actor_named_by_the_dialogue_is_on_the_left(small: Path, name: str, side: str) -> None:
    item = by_id(iemocap(small).read(), name)
    assert item.crop == side
    with av.open(str(item.video)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    half = np.split(frame.astype(float), 2, axis=1)[side == "right"]  # the small corpus's left is red, its right blue
    red, _, blue = half.mean(axis=(0, 1))
    assert (red > blue) == (side == "left")


def test_the_audio_is_a_separate_file_and_the_video_a_segment_of_the_dialogue(small: Path) -> None:
    item = by_id(iemocap(small).read(), "Ses01F_impro01_F002")
    assert item.audio is not None
    assert item.segment("audio") == (None, None)
    assert item.segment("video") == (item.start, item.end) == (2.0, 2.4)
    assert soundfile.info(item.audio).duration == pytest.approx(0.4)
    with av.open(str(item.video)) as container:
        assert container.duration / 1e6 == pytest.approx(4.0, abs=0.1)


def test_folders_of_single_raters_and_hidden_files_are_ignored(small: Path) -> None:
    folder = small / RELEASE / "Session1" / "dialog" / "EmoEvaluation"
    assert (folder / "._Ses01F_impro01.txt").is_file()
    assert (folder / "Categorical" / "Ses01F_impro01_e2_cat.txt").is_file()
    manifest = iemocap(small).read()
    assert len(manifest.dialogues) == 15
    assert [item for item in manifest.problems if item.kind != "count"] == []


def test_turns_are_in_the_order_of_their_start_times(tmp_path: Path) -> None:
    names = ("Ses01F_impro01_M000", "Ses01F_impro01_F001", "Ses01F_impro01_F000")
    lines = [summary(name, start=start) for name, start in zip(names, (9.5, 100.0, 2.0), strict=True)]
    manifest = iemocap(write_evaluation(tmp_path, lines)).read()
    turns = manifest.dialogues["Ses01F_impro01"]
    assert [(item.id[-4:], item.turn) for item in turns] == [("F000", 0), ("M000", 1), ("F001", 2)]


def test_turns_without_a_class_keep_their_number_in_the_dialogue(small: Path) -> None:
    turns = iemocap(small).read().dialogues["Ses01F_impro01"]
    assert [item.turn for item in turns] == list(range(8))
    assert any("emotion" not in item.targets for item in turns)


def test_unparsed_lines_of_transcripts_are_counted_in_a_note(small: Path) -> None:
    manifest = iemocap(small).read()
    assert manifest.notes == (
        "text: 105 of 120 utterances have a transcript",
        "transcripts: 15 lines have no utterance name with times",
    )
    assert by_id(manifest, "Ses01F_impro01_M000").text is None


def test_a_transcript_may_be_missing_or_in_windows_1252(copy: Path) -> None:
    transcripts = copy / "Session1" / "dialog" / "transcriptions"
    (transcripts / "Ses01M_impro01.txt").unlink()
    line = "Ses01F_impro01_F000 [000.0000-000.4000]: It\x92s  the caf\xe9."
    (transcripts / "Ses01F_impro01.txt").write_bytes(line.encode("latin-1"))
    manifest = iemocap(copy).read()
    assert by_id(manifest, "Ses01F_impro01_F000").text == "It’s the café."
    assert by_id(manifest, "Ses01M_impro01_F000").text is None


def test_scripted_dialogues_can_be_left_out(small: Path) -> None:
    scripted = iemocap(small).read()
    texts = Counter(item.text for item in scripted.utterances if item.metadata["scenario"] == "scripted" and item.text)
    assert min(texts.values()) >= 5  # the same lines in each session
    manifest = iemocap(small, improvised_only=True).read()
    assert len(manifest.utterances) == 80
    assert {item.metadata["scenario"] for item in manifest.utterances} == {"improvised"}
    assert manifest.digest != scripted.digest


def test_all_problems_are_reported_at_once_with_file_and_line(tmp_path: Path) -> None:
    lines = [
        summary("Ses01F_impro01_F000"),
        summary("Ses01F_impro01_F001", "bored"),
        "[6.2901 - 8.2357]\tSes01F_impro01_F002\tneu",
        summary("Ses01F_impro01_F003", dimensions="nan, 2.5000, 2.5000"),
        "[8.5000 - 8.2357]\tSes01F_impro01_F004\tneu\t[2.5000, 2.5000, 2.5000]",
        summary("Ses01F_impro02_F005"),
        summary("Somebody"),
        summary("Ses01F_impro01_F000", start=20.0),
    ]
    with pytest.raises(UserError) as caught:
        iemocap(write_evaluation(tmp_path, lines)).read()
    text = str(caught.value)
    for words in (
        "7 problem(s)",
        "Ses01F_impro01.txt:4: expected a label in",
        "got 'bored'",
        "Ses01F_impro01.txt:5: expected [start - end]<tab>name<tab>label",
        "Ses01F_impro01.txt:6: expected [start - end]",
        "Ses01F_impro01.txt:7: expected an end after the start, got 8.5 to 8.2357 s",
        "expected utterances of Ses01F_impro01 such as Ses01F_impro01_F000, got 'Ses01F_impro02_F005'",
        "got 'Somebody'",
        "Ses01F_impro01_F000: expected one utterance of this id, found 2",
    ):
        assert words in text, words


def test_a_dialogue_in_the_folder_of_another_session_is_fatal(copy: Path) -> None:
    (copy / DIALOGUE).rename(copy / "Session2" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt")
    with pytest.raises(UserError, match=r"Session2/Ses01F_impro01\.txt: expected utterances of"):
        iemocap(copy).read()


def test_a_mean_outside_the_scale_is_kept_and_reported(tmp_path: Path) -> None:
    root = write_evaluation(tmp_path, [summary("Ses01F_impro01_F000", dimensions="5.5000, 2.5000, 0.5000")])
    manifest = iemocap(root).read()
    assert [(item.kind, item.where, item.fatal) for item in manifest.problems] == [
        ("range", "Ses01F_impro01_F000", False)
    ] * 2
    assert manifest.utterances[0].targets["valence"] == 5.5


def test_absent_media_are_noted(copy: Path) -> None:
    shutil.rmtree(copy / "Session3" / "sentences")
    (copy / "Session4" / "dialog" / "avi" / "DivX" / "Ses04F_impro01.avi").unlink()
    manifest = iemocap(copy).read()
    assert manifest.notes[:2] == (
        "audio: 96 of 120 utterances have a file",
        "video: 112 of 120 utterances have a file",
    )


def test_absent_sessions_are_noted_and_counts_not_checked(copy: Path) -> None:
    shutil.rmtree(copy / "Session3")
    manifest = iemocap(copy).read()
    assert manifest.notes[0] == "absent sessions: Session3"
    assert manifest.problems == ()
    with pytest.raises(UserError, match=r"absent sessions: Session3(.|\n)*no utterances in test"):
        iemocap(copy, fold=2).split(manifest)


def write_whole(root: Path, labels: dict[int, list[str]]) -> Path:
    """Evaluations of all five sessions with these labels."""
    for session, codes in labels.items():
        dialogue = f"Ses0{session}F_impro01"
        lines = [summary(f"{dialogue}_F{number:04d}", code, number) for number, code in enumerate(codes)]
        write_evaluation(root, lines, dialogue)
    return root


def counted(totals: dict[str, int], sessions: tuple[int, ...]) -> dict[int, list[str]]:
    """Labels with these total counts, distributed over sessions of these sizes."""
    labels = [code for code, count in totals.items() for _ in range(count)]
    assert len(labels) == sum(sessions)
    return {number: [labels.pop() for _ in range(size)] for number, size in enumerate(sessions, start=1)}


FOUR_TOTALS = {"neu": 1708, "hap": 595, "exc": 1041, "sad": 1084, "ang": 1103}
FOUR_SESSIONS = (1085, 1023, 1151, 1031, 1241)


def test_a_whole_corpus_with_the_published_counts_of_four_classes_has_no_problems(tmp_path: Path) -> None:
    manifest = iemocap(write_whole(tmp_path, counted(FOUR_TOTALS, FOUR_SESSIONS))).read()
    assert manifest.problems == ()
    assert sum("emotion" in item.targets for item in manifest.utterances) == 5531


def test_a_whole_corpus_with_the_published_counts_of_six_classes_has_no_problems(tmp_path: Path) -> None:
    labels = counted({**FOUR_TOTALS, "hap": 648, "fru": 1849}, (1500, 1500, 1500, 1310, 1623))
    assert iemocap(write_whole(tmp_path, labels), classes=6).read().problems == ()


def test_wrong_counts_of_a_whole_corpus_are_reported_but_not_fatal(tmp_path: Path) -> None:
    labels = counted(FOUR_TOTALS, FOUR_SESSIONS)
    label = labels[2].pop()
    manifest = iemocap(write_whole(tmp_path, labels)).read()
    assert label == "sad"
    assert {(item.kind, item.fatal) for item in manifest.problems} == {("count", False)}
    assert [str(item) for item in manifest.problems] == [
        "4 classes: expected 5531 utterances as published, found 5530",
        "4 classes, sad: expected 1084 utterances as published, found 1083",
        "4 classes, Session2: expected 1023 utterances as published, found 1022",
    ]


def test_counts_of_six_classes_explain_the_difference_to_feature_files(tmp_path: Path) -> None:
    labels = counted({**FOUR_TOTALS, "fru": 1849}, (1500, 1500, 1500, 1258, 1622))
    problems = iemocap(write_whole(tmp_path, labels), classes=6).read().problems
    assert [(item.where, item.kind, item.fatal) for item in problems] == [
        ("6 classes", "count", False),
        ("6 classes, Session1 to Session4", "count", False),
        ("6 classes, Session5", "count", False),
    ]
    assert "expected 7433 utterances" in problems[0].detail
    assert problems[0].detail.endswith("(the consensus lines alone give 53 fewer, 7380), found 7380")


def test_the_counts_do_not_depend_on_improvised_only(small: Path) -> None:
    assert iemocap(small, improvised_only=True).read().problems == iemocap(small).read().problems


def test_a_folder_without_sessions_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected Session1/dialog/EmoEvaluation/\*\.txt here or under"):
        iemocap(tmp_path).read()


def test_the_local_copy_has_the_published_counts() -> None:
    root = SHARED_DATA / "iemocap"
    if not root.is_dir():
        pytest.skip("no iemocap/ in the folder of corpora (EMOREC_DATA)")
    manifest = iemocap(root).read()
    assert manifest.problems == ()
    assert sum("emotion" in item.targets for item in manifest.utterances) == 5531
