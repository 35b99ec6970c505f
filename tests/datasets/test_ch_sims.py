"""CH-SIMS is read from its table and clips, and all problems of the table are reported at once."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from emorec.datasets.ch_sims import ChSims
from emorec.errors import UserError
from tests.conftest import SHARED_DATA
from tests.datasets.conftest import Roots, by_id

COLUMNS = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")


def ch_sims(root: Path, task: str = "sentiment") -> ChSims:
    return ChSims(root=str(root), task=task, protocol="official")


def row(clip: object = 1, **changes: object) -> dict[str, object]:
    values = dict(zip(COLUMNS, ("video_0001", clip, "你好", -0.6, 0, 0.2, -1, "Negative", "train"), strict=True))
    return {**values, **changes}


def write_table(root: Path, rows: list[dict[str, object]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with (root / "label.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return root


@pytest.fixture
def small(small_corpus: Roots) -> Path:
    return small_corpus("ch_sims")


def test_an_utterance_has_the_annotations_of_its_row(small: Path) -> None:
    manifest = ch_sims(small).read()
    item = by_id(manifest, "video_0004_0003")
    clip = small / "Raw" / "video_0004" / "0003.mp4"
    assert clip.is_file()
    assert (item.audio, item.video) == (clip, clip)
    assert item.text == "太好了,谢谢你!"
    assert (item.dialogue, item.turn, item.split) == ("video_0004", 3, "val")
    assert item.targets == {
        "sentiment": 1.0,
        "sentiment_text": 0.8,
        "sentiment_audio": 1.0,
        "sentiment_video": 0.6,
        "polarity": 2,
    }
    assert manifest.problems == ()
    assert manifest.notes == ("20 of 2281 clips",)


def test_sentiment_is_a_regression_and_polarity_a_classification(small: Path) -> None:
    tasks = ch_sims(small).read().tasks
    for name in ("sentiment", "sentiment_text", "sentiment_audio", "sentiment_video"):
        task = tasks[name]
        assert (task.kind, task.labels, task.monitor, task.direction) == ("regression", (name,), "mae", "min")
    assert (tasks["polarity"].kind, tasks["polarity"].labels) == ("classification", ("negative", "neutral", "positive"))


def test_the_splits_are_those_of_the_authors(small: Path) -> None:
    for task in ("sentiment", "polarity"):
        dataset = ch_sims(small, task=task)
        splits = dataset.split(dataset.read())
        assert {name: len(items) for name, items in splits.items()} == {"train": 12, "val": 4, "test": 4}


@pytest.mark.parametrize("clip", ["1", "01", "0001"])
def test_a_clip_number_may_lack_its_leading_zeros(tmp_path: Path, clip: str) -> None:
    path = tmp_path / "Raw" / "video_0001" / "0001.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a clip")
    (item,) = ch_sims(write_table(tmp_path, [row(clip)])).read().utterances
    assert (item.id, item.video) == ("video_0001_0001", path)


def test_the_table_is_read_with_and_without_a_byte_order_mark(small: Path, tmp_path: Path) -> None:
    content = (small / "label.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    (tmp_path / "label.csv").write_bytes(content[3:])
    texts = [item.text for item in ch_sims(tmp_path).read().utterances]
    assert texts == [item.text for item in ch_sims(small).read().utterances]
    assert "我不想嫁给李茶" in texts


@pytest.mark.parametrize("annotation", ["Positive", "positive", " POSITIVE "])
def test_the_case_of_an_annotation_does_not_matter(tmp_path: Path, annotation: str) -> None:
    (item,) = ch_sims(write_table(tmp_path, [row(annotation=annotation)])).read().utterances
    assert item.targets["polarity"] == 2


def test_columns_of_single_modalities_are_optional_tasks(tmp_path: Path) -> None:
    columns = tuple(name for name in COLUMNS if name not in ("label_T", "label_V"))
    manifest = ch_sims(write_table(tmp_path, [row()], columns)).read()
    assert set(manifest.tasks) == {"sentiment", "sentiment_audio", "polarity"}
    assert manifest.utterances[0].targets == {"sentiment": -0.6, "sentiment_audio": 0.2, "polarity": 0}


def test_all_problems_are_reported_at_once_with_file_and_line(tmp_path: Path) -> None:
    rows = [
        row(1, label=1.2),
        row(2, label="high", label_A=""),
        row(3, label_T="nan"),
        row(4, label_V=-1.01),
        row("four", annotation="Mixed", mode="dev"),
        row(6),
        row(6),
    ]
    with pytest.raises(UserError) as caught:
        ch_sims(write_table(tmp_path, rows)).read()
    text = str(caught.value)
    for words in (
        "9 problem(s)",
        "label.csv:2: expected label from -1 to 1, got '1.2'",
        "label.csv:3: expected label from -1 to 1, got 'high'",
        "label.csv:3: expected label_A from -1 to 1, got ''",
        "label.csv:4: expected label_T from -1 to 1, got 'nan'",
        "label.csv:5: expected label_V from -1 to 1, got '-1.01'",
        "label.csv:6: expected annotation in ('negative', 'neutral', 'positive'), got 'Mixed'",
        "label.csv:6: expected mode in ('train', 'valid', 'test'), got 'dev'",
        "label.csv:6: expected clip_id to be a number, got 'four'",
        "video_0001_0006: expected one utterance of this id, found 2",
    ):
        assert words in text, words


@pytest.mark.parametrize("value", [-1, 0, 1, "-1.0", "0.2"])
def test_the_scale_includes_its_ends(tmp_path: Path, value: object) -> None:
    (item,) = ch_sims(write_table(tmp_path, [row(label=value)])).read().utterances
    assert item.targets["sentiment"] == float(str(value))


def test_absent_clips_are_noted(tmp_path: Path) -> None:
    manifest = ch_sims(write_table(tmp_path, [row()])).read()
    assert manifest.notes[1:] == ("audio: 0 of 1 utterances have a file", "video: 0 of 1 utterances have a file")


def whole(**counts: int) -> list[dict[str, object]]:
    modes = [mode for mode, count in counts.items() for _ in range(count)]
    return [row(number, mode=mode) for number, mode in enumerate(modes, start=1)]


def test_a_whole_corpus_with_the_published_counts_has_no_problems(tmp_path: Path) -> None:
    manifest = ch_sims(write_table(tmp_path, whole(train=1368, valid=456, test=457))).read()
    assert manifest.problems == ()
    assert Counter(item.split for item in manifest.utterances) == {"train": 1368, "val": 456, "test": 457}
    assert not any("clips" in note for note in manifest.notes)


def test_wrong_counts_of_a_whole_corpus_are_reported_but_not_fatal(tmp_path: Path) -> None:
    manifest = ch_sims(write_table(tmp_path, whole(train=1368, valid=457, test=456))).read()
    assert [(item.kind, str(item), item.fatal) for item in manifest.problems] == [
        ("count", "val: expected 456 clips as published, found 457", False),
        ("count", "test: expected 457 clips as published, found 456", False),
    ]


def test_a_missing_table_or_column_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label\.csv: expected this file, found none"):
        ch_sims(tmp_path).read()
    write_table(tmp_path, [row()], ("video_id", "clip_id", "text"))
    with pytest.raises(UserError, match=r"expected columns \['label', 'annotation', 'mode'\]"):
        ch_sims(tmp_path).read()


def test_the_local_copy_is_complete() -> None:
    root = SHARED_DATA / "ch_sims"
    if not root.is_dir():
        pytest.skip("no ch_sims/ in the folder of corpora (EMOREC_DATA)")
    assert ch_sims(root).read().problems == ()
