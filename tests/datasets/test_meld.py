"""MELD is read from tables and clips in several layouts, and all problems are reported at once."""

import csv
import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from emorec.datasets.demo_synthesis import write_video
from emorec.datasets.manifest import Manifest
from emorec.datasets.meld import Meld, normalise_text
from emorec.errors import UserError
from tests.conftest import SHARED_DATA, tone
from tests.datasets.conftest import Roots, by_id, write_files

COLUMNS = (
    *("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    *("Season", "Episode", "StartTime", "EndTime"),
)
TABLES = {"train": "train_sent_emo.csv", "val": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
SENTIMENT = {"neutral": "neutral", "joy": "positive", "surprise": "positive"}

Row = tuple[str, str, str, str | int, str | int]  # text, speaker, emotion, dialogue, turn
ROWS: dict[str, list[Row]] = {
    "train": [
        ("Oh my God!", "Phoebe", "surprise", 0, 0),
        ("What?", "Monica", "neutral", 0, 1),
        ("He left.", "Phoebe", "sadness", 0, 4),
        ("No way, he didn't!", "Joey", "anger", 0, 6),
        ("Hello.", "Ross", "joy", 1, 0),
    ],
    "val": [("Hi, you.", "Joey", "joy", 0, 0), ("Go away.", "Monica", "disgust", 0, 1)],
    "test": [("I'm scared.", "Phoebe", "fear", 0, 0), ("Fine.", "The Interviewer", "neutral", 2, 0)],
}


def write_table(path: Path, rows: list[Row]) -> None:
    """Writes a table in the layout of the authors."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for number, (text, speaker, emotion, dialogue, turn) in enumerate(rows, start=1):
            times = ("00:20:57,256", "00:21:00,049")
            sentiment = SENTIMENT.get(emotion, "negative")
            table.writerow((number, text, speaker, emotion, sentiment, dialogue, turn, 4, 7, *times))


def write_tables(root: Path, rows: dict[str, list[Row]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, name in TABLES.items():
        write_table(root / name, rows[split])
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The tables of a small corpus, without media."""
    return write_tables(tmp_path / "meld", ROWS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small clip."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, np.full((4, 64, 64, 3), 90, dtype=np.uint8), 12, tone(0.3), 16_000)
    return path.read_bytes()


def meld(root: Path, task: str = "emotion") -> Meld:
    return Meld(root=str(root), task=task, protocol="official")


def media_of(manifest: Manifest, name: str) -> tuple[Path | None, Path | None]:
    item = by_id(manifest, name)
    return item.audio, item.video


def test_an_utterance_has_the_annotations_of_its_row(corpus: Path) -> None:
    manifest = meld(corpus).read()
    item = by_id(manifest, "train_dia0_utt4")
    assert (item.text, item.speaker, item.split) == ("He left.", "Phoebe", "train")
    assert (item.dialogue, item.turn) == ("train_dia0", 4)
    assert manifest.tasks["emotion"].labels[int(item.targets["emotion"])] == "sadness"  # type: ignore[arg-type]
    assert manifest.tasks["sentiment"].labels[int(item.targets["sentiment"])] == "negative"  # type: ignore[arg-type]
    assert item.metadata == {"Season": "4", "Episode": "7", "StartTime": "00:20:57,256", "EndTime": "00:21:00,049"}
    assert manifest.problems == ()


def test_the_splits_are_those_of_the_authors(corpus: Path) -> None:
    dataset = meld(corpus)
    splits = dataset.split(dataset.read())
    assert {name: len(items) for name, items in splits.items()} == {"train": 5, "val": 2, "test": 2}


def test_the_same_dialogue_number_in_several_splits_gives_different_ids(corpus: Path) -> None:
    manifest = meld(corpus).read()
    ids = [item.id for item in manifest.utterances]
    assert len(set(ids)) == len(ids) == 9
    assert {"train_dia0_utt0", "val_dia0_utt0", "test_dia0_utt0"} <= set(ids)
    assert set(manifest.dialogues) == {"train_dia0", "train_dia1", "val_dia0", "test_dia0", "test_dia2"}


def test_a_speaker_is_the_same_person_in_every_split(corpus: Path) -> None:
    manifest = meld(corpus).read()
    splits_of = {name: {item.split for item in manifest.utterances if item.speaker == name} for name in ("Joey",)}
    assert splits_of == {"Joey": {"train", "val"}}
    assert manifest.speakers == ("Joey", "Monica", "Phoebe", "Ross", "The Interviewer")


def test_previous_turns_skip_gaps_and_stay_in_the_dialogue(corpus: Path) -> None:
    manifest = meld(corpus).read()
    utterances = {item.id: item for item in manifest.utterances}

    def before(name: str, count: int) -> list[int | None]:
        return [item.turn for item in manifest.previous_turns(utterances[name], count)]

    assert before("train_dia0_utt6", 2) == [1, 4]
    assert before("train_dia0_utt6", 10) == [0, 1, 4]
    assert before("train_dia0_utt6", 0) == []
    assert before("train_dia0_utt0", 3) == []
    assert before("train_dia1_utt0", 3) == []
    assert before("val_dia0_utt1", 3) == [0]


def test_turns_are_ordered_by_their_number(tmp_path: Path) -> None:
    rows = {**ROWS, "train": [("Later.", "Joey", "joy", 3, 10), ("Sooner.", "Joey", "joy", 3, 9)]}
    manifest = meld(write_tables(tmp_path / "meld", rows)).read()
    assert [item.text for item in manifest.dialogues["train_dia3"]] == ["Sooner.", "Later."]


def test_sentiment_is_a_task_with_three_classes(corpus: Path) -> None:
    dataset = meld(corpus, task="sentiment")
    manifest = dataset.read()
    assert dataset.chosen_task(manifest).labels == ("neutral", "positive", "negative")
    train = dataset.split(manifest)["train"]
    assert Counter(item.targets["sentiment"] for item in train) == {0: 1, 1: 2, 2: 2}


def test_all_problems_are_reported_at_once_with_file_and_line(corpus: Path) -> None:
    train: list[Row] = [*ROWS["train"], ("Hm.", "Joey", "bored", 1, 1), ("Hm.", "Joey", "joy", "one", 2)]
    val: list[Row] = [("Hm.", "Joey", "joy", 0, ""), *ROWS["val"]]
    write_table(corpus / TABLES["train"], train)
    write_table(corpus / TABLES["val"], val)
    (corpus / TABLES["test"]).unlink()
    with pytest.raises(UserError) as caught:
        meld(corpus).read()
    text = str(caught.value)
    assert "4 problem(s)" in text
    assert re.search(r"train_sent_emo\.csv:7: expected Emotion in .*'neutral'.*got 'bored'", text)
    assert re.search(r"train_sent_emo\.csv:8: expected Dialogue_ID to be a number, got 'one'", text)
    assert re.search(r"dev_sent_emo\.csv:2: expected Utterance_ID to be a number, got ''", text)
    assert re.search(r"test_sent_emo\.csv: expected this file, found none", text)


def test_an_unknown_sentiment_is_reported(corpus: Path) -> None:
    table = corpus / TABLES["val"]
    table.write_text(table.read_text(encoding="utf-8").replace("positive", "mixed"), encoding="utf-8")
    with pytest.raises(UserError, match=r"dev_sent_emo\.csv:2: expected Sentiment .*got 'mixed'"):
        meld(corpus).read()


def test_a_repeated_utterance_is_reported(corpus: Path) -> None:
    write_table(corpus / TABLES["val"], [*ROWS["val"], ROWS["val"][0]])
    with pytest.raises(UserError, match="val_dia0_utt0: expected one utterance of this id, found 2"):
        meld(corpus).read()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Utterance,Speaker\nHi,Joey\n", "expected columns"),
        (b"", "expected columns"),
        (b"Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\nHi,Joey\n", "dev_sent_emo.csv:2"),
        (b'Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"Hi"x,Joey,joy,positive,0,0\n', "CSV"),
        ("Utterance,Speaker\nIt\N{RIGHT SINGLE QUOTATION MARK}s".encode("cp1252"), "expected UTF-8"),
    ],
)
def test_an_invalid_table_is_reported(corpus: Path, content: bytes, words: str) -> None:
    (corpus / TABLES["val"]).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        meld(corpus).read()
    assert "dev_sent_emo.csv" in str(caught.value)


def test_a_table_with_a_byte_order_mark_is_read(corpus: Path) -> None:
    table = corpus / TABLES["val"]
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(meld(corpus).read().utterances) == 9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It\x92s \x93fine\x94", "It’s “fine”"),
        ("Wait\x85 no \x96 yes \x97 ok", "Wait… no – yes — ok"),
        ("two  spaces\u00a0and\ta tab ", "two spaces and a tab"),
        ("caf\xe9", "café"),
    ],
)
def test_c1_characters_are_decoded(one: str, other: str) -> None:
    assert normalise_text(one) == normalise_text(other) == other


def test_c1_characters_do_not_change_the_digest(tmp_path: Path) -> None:
    def copy(name: str, text: str, speaker: str) -> Manifest:
        row: Row = (text, speaker, "joy", 7, 0)
        return meld(write_tables(tmp_path / name, {**ROWS, "val": [*ROWS["val"], row]})).read()

    one, other = copy("one", "It\x92s Ross\x92s.", "Ross\x92 Mum"), copy("other", "It’s Ross’s.", "Ross’ Mum")
    assert one.digest == other.digest
    assert one.speakers == other.speakers
    assert copy("third", "Its Ross.", "Ross’ Mum").digest != one.digest


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\x1c", "\x0b"])
def test_a_control_character_in_a_text_does_not_tear_its_row(tmp_path: Path, character: str) -> None:
    rows = {**ROWS, "val": [("Wait" + character + " no", "Joey", "joy", 0, 0), ("Go.", "Joey", "anger", 0, 1)]}
    manifest = meld(write_tables(tmp_path / "meld", rows)).read()
    texts = {item.id: item.text or "" for item in manifest.utterances}
    assert texts["val_dia0_utt1"] == "Go."
    assert texts["val_dia0_utt0"].startswith("Wait")
    assert texts["val_dia0_utt0"].endswith("no")


def test_a_text_over_two_lines_is_one_text(corpus: Path) -> None:
    write_table(corpus / TABLES["val"], [("One\nline.", "Joey", "joy", 0, 0), *ROWS["val"][1:]])
    manifest = meld(corpus).read()
    assert next(item.text for item in manifest.utterances if item.id == "val_dia0_utt0") == "One line."


CLIPS = {
    "as the archive unpacks": {
        "train": "train/train_splits",
        "val": "dev/dev_splits_complete",
        "test": "test/output_repeated_splits_test",
    },
    "by split": {"train": "videos/train", "val": "videos/dev", "test": "videos/test"},
}


@pytest.mark.parametrize("layout", CLIPS)
def test_clips_are_read_in_both_layouts(corpus: Path, clip: bytes, layout: str) -> None:
    folders = CLIPS[layout]
    for split, rows in ROWS.items():
        write_files(corpus, *(f"{folders[split]}/dia{row[3]}_utt{row[4]}.mp4" for row in rows), content=clip)
    manifest = meld(corpus).read()
    for item in manifest.utterances:
        clip_path = corpus / folders[str(item.split)] / f"{item.id.partition('_')[2]}.mp4"
        assert (item.audio, item.video) == (clip_path, clip_path), item.id
    assert manifest.notes[1:] == ()


def test_separate_sound_files_take_precedence_over_clips(corpus: Path, clip: bytes) -> None:
    write_files(
        corpus, "videos/train/dia0_utt0.mp4", "audios/train/dia0_utt0.flac", "audios/train/dia0_utt1.flac", content=clip
    )
    manifest = meld(corpus).read()
    sound, video = corpus / "audios" / "train", corpus / "videos" / "train"
    assert media_of(manifest, "train_dia0_utt0") == (sound / "dia0_utt0.flac", video / "dia0_utt0.mp4")
    assert media_of(manifest, "train_dia0_utt1") == (sound / "dia0_utt1.flac", None)
    assert media_of(manifest, "val_dia0_utt0") == (None, None)


def test_extra_hidden_and_absent_clips_are_notes_but_no_problems(corpus: Path, clip: bytes) -> None:
    folder = "test/output_repeated_splits_test"
    names = ("dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4", "dia108_utt2.mp4", "._dia2_utt0.mp4")
    write_files(corpus, *(f"{folder}/{name}" for name in names), content=clip)
    manifest = meld(corpus).read()
    assert media_of(manifest, "test_dia0_utt0")[1] == corpus / folder / "dia0_utt0.mp4"
    assert media_of(manifest, "test_dia2_utt0") == (None, None)
    assert manifest.problems == ()
    assert manifest.notes[1:] == (
        "audio: 1 of 9 utterances have a file",
        "video: 1 of 9 utterances have a file",
        "ignored files that are in no table: 2",
        "ignored hidden files: 1",
    )


def test_bad_clips_are_left_out_but_their_text_is_kept(tmp_path: Path, clip: bytes) -> None:
    bad = {"train": [(125, 3), (309, 0)], "val": [(110, 7)], "test": [(38, 4), (220, 0)]}
    rows: dict[str, list[Row]] = {
        split: [("Hm.", "Joey", "joy", dialogue, turn) for numbers in pairs for dialogue, turn in (numbers, (500, 0))]
        for split, pairs in bad.items()
    }
    rows = {split: list(dict.fromkeys(items)) for split, items in rows.items()}
    root = write_tables(tmp_path / "meld", rows)
    for split, items in rows.items():
        names = [f"dia{row[3]}_utt{row[4]}" for row in items]
        write_files(root, *(f"{CLIPS['by split'][split]}/{name}.mp4" for name in names), content=clip)
        write_files(root, *(f"audios/{split}/{name}.flac" for name in names), content=clip)
    manifest = meld(root).read()
    without = {item.id for item in manifest.utterances if item.audio is None and item.video is None}
    assert without == {f"{split}_dia{number}_utt{turn}" for split, pairs in bad.items() for number, turn in pairs}
    assert all(item.video and item.audio for item in manifest.utterances if item.id not in without)
    assert {item.text for item in manifest.utterances} == {"Hm."}
    assert manifest.notes[-1] == (
        "audio and video left out: test_dia220_utt0 (cut wrongly), test_dia38_utt4 (cut wrongly), "
        "train_dia125_utt3 (corrupt), train_dia309_utt0 (cut wrongly), val_dia110_utt7 (missing)"
    )


def test_absent_bad_clips_are_not_noted(tmp_path: Path) -> None:
    rows: dict[str, list[Row]] = {**ROWS, "train": [("Hm.", "Joey", "joy", 125, 3)]}
    manifest = meld(write_tables(tmp_path / "meld", rows)).read()
    lacking = tuple(f"{name}: 0 of 5 utterances have a file" for name in ("audio", "video"))
    assert manifest.notes == ("5 of 13708 utterances", *lacking)


def test_a_bad_clip_is_bad_only_in_its_split(tmp_path: Path, clip: bytes) -> None:
    rows: dict[str, list[Row]] = {**ROWS, "test": [("Hm.", "Joey", "joy", 125, 3)]}
    root = write_tables(tmp_path / "meld", rows)
    write_files(root, "videos/test/dia125_utt3.mp4", content=clip)
    assert media_of(meld(root).read(), "test_dia125_utt3")[1] is not None


def test_extra_sound_files_are_counted(corpus: Path, clip: bytes) -> None:
    write_files(
        corpus, "videos/dev/dia49_utt4.mp4", "audios/dev/dia49_utt4.flac", "audios/dev/._dia0_utt0.flac", content=clip
    )
    notes = meld(corpus).read().notes
    assert notes[3:] == ("ignored files that are in no table: 2", "ignored hidden files: 1")


@pytest.fixture
def small(small_corpus: Roots) -> Manifest:
    return meld(small_corpus("meld")).read()


def test_the_small_corpus_has_the_faults_of_the_real_one(small: Manifest) -> None:
    without = {item.id for item in small.utterances if item.video is None}
    assert without == {"train_dia125_utt3", "val_dia110_utt7", "test_dia38_utt4"}
    assert small.problems == ()
    assert small.notes[1:] == (
        "audio: 58 of 61 utterances have a file",
        "video: 58 of 61 utterances have a file",
        "ignored files that are in no table: 5",
        "ignored hidden files: 3",
        "audio and video left out: test_dia38_utt4 (cut wrongly), train_dia125_utt3 (corrupt)",
    )


def test_the_small_corpus_has_gaps_repeated_ids_and_six_channels(small: Manifest) -> None:
    assert [item.turn for item in small.dialogues["train_dia1"]] == [0, 1, 2, 6, 7]
    assert {"train_dia0_utt0", "val_dia0_utt0", "test_dia0_utt0"} <= {item.id for item in small.utterances}
    path = media_of(small, "train_dia0_utt1")[0]
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.channels == 6


def test_control_characters_of_the_small_corpus_are_read_as_quotes(small: Manifest, small_corpus: Roots) -> None:
    assert "Don\x92t" in (small_corpus("meld") / TABLES["train"]).read_text(encoding="utf-8")
    assert {"Don’t you touch that!", "You did “what”?"} <= {item.text for item in small.utterances}


def test_the_small_corpus_is_the_same_in_the_other_layout(small: Manifest, small_corpus: Roots, tmp_path: Path) -> None:
    root = tmp_path / "meld"
    shutil.copytree(small_corpus("meld"), root)
    (root / "videos").mkdir()
    for split, folder in CLIPS["as the archive unpacks"].items():
        (root / folder).rename(root / CLIPS["by split"][split])
    manifest = meld(root).read()
    assert (manifest.digest, manifest.notes) == (small.digest, small.notes)


@pytest.fixture(scope="module")
def real() -> Manifest:
    """The local copy."""
    if not (SHARED_DATA / "meld").is_dir():
        pytest.skip("no meld/ in the folder of corpora (EMOREC_DATA)")
    return meld(SHARED_DATA / "meld").read()


# Counted in the authors' tables: neutral, joy, sadness, anger, fear, disgust, surprise.
EMOTION_COUNTS = {
    "train": (4710, 1743, 683, 1109, 268, 271, 1205),
    "val": (470, 163, 111, 153, 40, 22, 150),
    "test": (1256, 402, 208, 345, 50, 68, 281),
}


def test_the_real_tables_have_the_published_counts(real: Manifest) -> None:
    assert {
        split: tuple(
            sum(item.split == split and item.targets["emotion"] == emotion for item in real.utterances)
            for emotion in range(7)
        )
        for split in TABLES
    } == EMOTION_COUNTS
    assert Counter(item.split for item in real.utterances) == {"train": 9989, "val": 1109, "test": 2610}
    assert Counter(name.partition("_")[0] for name in real.dialogues) == {"train": 1038, "val": 114, "test": 280}
    assert "train_dia60" not in real.dialogues


def test_previous_turns_skip_the_gaps_of_the_real_dialogues(real: Manifest) -> None:
    with_gaps = 0
    for name, turns in real.dialogues.items():
        numbers = [item.turn or 0 for item in turns]
        assert numbers == sorted(set(numbers)), name
        assert real.previous_turns(turns[-1], 100) == turns[:-1], name
        with_gaps += name.startswith("train_") and numbers != list(range(len(numbers)))
    assert with_gaps == 72


def test_the_real_texts_have_no_control_characters(real: Manifest) -> None:
    texts = [text for item in real.utterances for text in (item.text or "", item.speaker or "")]
    assert [text for text in texts if any(unicodedata.category(character) == "Cc" for character in text)] == []
    assert all(texts)
