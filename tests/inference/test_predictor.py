"""Prediction of clips without labels: the very numbers of the run, whatever the files are."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from emorec import load_run
from emorec.cli import main
from emorec.datasets.demo import VERSION
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.predictor import BLOCK
from emorec.runs.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.slow

TEXT = ["encoder/audio=none", "encoder/video=none"]


def trained(root: Path, words: list[str]) -> LoadedRun:
    assert main(["train", *words, "progress=false"]) == 0
    (newest,) = CheckpointStore(root / "checkpoints").records()
    return load_run(newest.run_id, checkpoints=root / "checkpoints")


@pytest.fixture
def clips(small_demo: Path, tmp_path: Path) -> Path:
    """The clips of the demo corpus in one folder, with transcripts beside them."""
    source, folder = small_demo / f"version_{VERSION}", tmp_path / "clips"
    folder.mkdir()
    with (source / "utterances.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            (folder / f"{row['id']}.txt").write_text(row["text"])
            shutil.copy(source / "audio" / f"{row['id']}.flac", folder)
            shutil.copy(source / "video" / f"{row['id']}.mp4", folder)
    return folder


def expected_of(run: LoadedRun) -> pandas.DataFrame:
    return run.predictions.set_index("id").filter(like="probability_")


@pytest.mark.parametrize("modalities", [("text",), ("audio",), ("video",), ("text", "audio", "video")], ids="+".join)
def test_a_corpus_own_clips_get_the_predictions_of_the_run(
    root: Path, train_overrides: list[str], clips: Path, modalities: tuple[str, ...]
) -> None:
    left_out = [f"encoder/{name}=none" for name in ("text", "audio", "video") if name not in modalities]
    run = trained(root, [*train_overrides, *left_out])
    expected = expected_of(run)
    found = {Path(item.id).stem: item for item in run.predict(clips)}
    assert len(found) == 32 < BLOCK
    for name, row in expected.iterrows():
        prediction = found[str(name)]
        assert prediction.modalities == modalities
        np.testing.assert_allclose(list(prediction.probabilities.values()), row.to_numpy(), atol=1e-5)
        assert prediction.predicted == run.predictions.set_index("id").loc[name, "predicted"]
        assert prediction.problems == {}


def test_an_encoder_that_trains_predicts_as_in_the_run(root: Path, train_overrides: list[str], clips: Path) -> None:
    network = ["encoder/audio=crnn", "encoder.audio.channels=[4]", "encoder.audio.hidden=4"]
    run = trained(root, [*train_overrides, *network, "encoder/text=bilstm_attention", "encoder/video=none"])
    found = {Path(item.id).stem: list(item.probabilities.values()) for item in run.predict(clips)}
    for name, row in expected_of(run).iterrows():
        np.testing.assert_allclose(found[str(name)], row.to_numpy(), atol=1e-5)


def test_any_subset_of_the_modalities_will_do_and_broken_files_are_rows(
    root: Path, train_overrides: list[str], clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emorec.inference.predictor.BLOCK", 5)  # of which some have no modality at all
    run = trained(root, train_overrides)
    for file in clips.iterdir():
        if not file.stem.endswith("0"):
            file.unlink()
    names = sorted({file.stem for file in clips.iterdir()})
    assert len(names) >= 3
    (clips / f"{names[0]}.txt").write_bytes("très".encode("latin-1"))
    (clips / f"{names[1]}.flac").write_bytes(b"no sound")
    for suffix in (".flac", ".mp4", ".txt"):
        (clips / f"{names[2]}{suffix}").write_bytes(b"")
    predictions = {Path(item.id).stem: item for item in run.predict(clips)}
    assert sorted(predictions) == names
    assert predictions[names[0]].modalities == ("audio", "video")
    assert predictions[names[0]].problems["text"].startswith("expected UTF-8, got")
    assert predictions[names[1]].modalities == ("text", "video")
    assert set(predictions[names[1]].problems) == {"audio"}
    nothing = predictions[names[2]]
    assert (nothing.predicted, nothing.probabilities, nothing.confidence, nothing.modalities) == (None, {}, None, ())
    assert {"audio", "video"} <= set(nothing.problems)


def test_the_turns_of_a_dialogue_are_its_context(root: Path, clips: Path, tmp_path: Path) -> None:
    rows = [
        (
            f"{split}{number}",
            "happy" if number % 2 else "sad",
            ("what a joy", "how sad it is")[number % 2],
            f"{split}_{number // 5}",
            number % 5,
            split,
        )
        for split in ("train", "val", "test")
        for number in range(20)
    ]
    table = pandas.DataFrame(rows, columns=["id", "label", "text", "dialogue", "turn", "split"])
    table.to_csv(tmp_path / "talk.csv", index=False)
    run = trained(
        root,
        [
            "dataset=custom",
            f"dataset.table={tmp_path / 'talk.csv'}",
            *TEXT,
            "context=bigru",
            "model.hidden=8",
            "trainer.max_epochs=2",
        ],
    )
    unlabelled = tmp_path / "new.csv"
    table[table["split"] == "test"].drop(columns=["label", "split"]).sample(frac=1, random_state=0).to_csv(
        unlabelled, index=False
    )
    found = {item.id: list(item.probabilities.values()) for item in run.predict(unlabelled)}
    expected = expected_of(run)
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, expected.loc[name].to_numpy(), atol=1e-5)
    alone = tmp_path / "alone.csv"
    table[table["id"] == "test7"][["id", "text"]].to_csv(alone, index=False)
    (prediction,) = run.predict(alone)
    assert not np.allclose(list(prediction.probabilities.values()), found["test7"], atol=1e-4)


def rows_of(path: Path) -> pandas.DataFrame:
    return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)


def test_the_command_writes_a_row_for_each_clip_in_every_format(
    root: Path, train_overrides: list[str], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(root, [*train_overrides, *TEXT])
    line = ["predict", f"run={run.record.run_id}", f"input={clips}", "progress=false"]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert main([*line, f"output={tmp_path / name}"]) == 0
    assert "32 clips" in capsys.readouterr().err
    written, stored = rows_of(tmp_path / "a.csv"), rows_of(tmp_path / "a.parquet")
    assert list(written) == list(stored)
    labels = run.task.labels
    assert list(stored)[:5] == ["id", "start", "end", "predicted", "confidence"]
    np.testing.assert_allclose(stored[[f"probability_{name}" for name in labels]].sum(axis=1), 1, atol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [item["id"] for item in lines] == list(written["id"]) == list(stored["id"])
    assert [item["predicted"] for item in lines] == list(stored["predicted"])
    assert sorted(tmp_path.glob("a.*")) == [tmp_path / name for name in ("a.csv", "a.jsonl", "a.parquet")]

    only = min(clips.glob("*.txt"))
    assert main(["predict", f"run={run.record.run_id}", f"input={only}"]) == 0
    printed = capsys.readouterr().out
    assert "\\u000d" not in printed
    header, row = printed.splitlines()
    assert header.startswith("id,start,end,predicted,confidence,probability_")
    assert header.endswith(",modalities,problems,text")
    assert row.startswith(str(only))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["input=nowhere"], "expected a file, a folder or a table, found nothing at nowhere"),
        (["input={folder}"], "expected media or texts"),
        (["input={folder}/a.xyz"], "expected one of .wav"),
        (["input={folder}/a.csv"], "expected a column audio, video or text, found ['name']"),
        (["input={folder}/a.txt", "output=result.doc"], "expected a file that ends in .csv, .json, .jsonl, .parquet"),
        (["input={folder}/a.txt", "format=parquet"], "expected a file for format=parquet, got -"),
        (["input={folder}/twice.csv"], "expected each id once, got 'one' again"),
    ],
)
def test_what_cannot_be_predicted_is_told(  # noqa: PLR0917
    root: Path, finished: str, words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    (folder / "empty").mkdir(parents=True)
    place = folder / "empty" if words == ["input={folder}"] else folder
    (folder / "a.xyz").write_text("?")
    (folder / "a.csv").write_text("name\nx\n")
    (folder / "a.txt").write_text("hello")
    (folder / "twice.csv").write_text("id,text\none,hello\none,again\n")
    assert main(["predict", f"run={finished}", *(word.format(folder=place) for word in words)]) == 2
    assert expected in capsys.readouterr().err
    assert not list(Path.cwd().glob("result.doc*"))


@pytest.fixture
def finished(root: Path, train_overrides: list[str]) -> str:
    """The id of a run on text."""
    return trained(root, [*train_overrides, *TEXT, "trainer.max_epochs=1"]).record.run_id
