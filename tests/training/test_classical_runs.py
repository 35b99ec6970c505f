"""Runs with a classical head: found, evaluated and used like any other."""

import csv
from pathlib import Path

import numpy as np
import pytest

from emorec import load_run
from emorec.cli import main
from emorec.inference.loaded_run import LoadedRun
from emorec.runs.checkpoint_store import CheckpointStore
from tests.runs.test_golden_ids import identity

WORDS = ["encoder/video=none", "progress=false"]
HEADS = ["linear_svm", "logistic_regression", "knn"]


def the_run(root: Path) -> LoadedRun:
    (record,) = CheckpointStore(root / "checkpoints").records()
    return load_run(record.run_id, checkpoints=root / "checkpoints")


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_trained_once_and_evaluates_and_predicts_to_the_same(
    head: str, root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["train", f"dataset.root={small_demo}", f"head={head}", *WORDS]
    assert main(words) == 0
    run = the_run(root)
    assert set(run.record.weights) == {"normalisation", "fusion", "head", "calibration"}
    (parameter,) = run.record.chosen
    with (run.folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row[parameter]) for row in rows] == list(run.model.head.grid)  # type: ignore[union-attr, arg-type]
    best = max(rows, key=lambda row: float(row["val/uar"]))
    assert float(best[parameter]) == run.record.chosen[parameter]
    assert float(best["val/uar"]) == run.metrics["val/uar"]
    assert run.record.test_reads[0]["why"] == f"{parameter}={run.record.chosen[parameter]:g}"

    assert main([*words, "fusion=gated", "model.hidden=8", "batch_size=4"]) == 0  # they change nothing
    assert f"run {run.record.run_id} is finished" in caplog.text

    assert main(["evaluate", f"run={run.record.run_id}", "missing=grid", "progress=false"]) == 0
    assert f"test/uar={run.metrics['test/uar']:.4f}" in capsys.readouterr().out

    row = run.predictions.iloc[-1]
    (clip,) = (small_demo / "version_1" / "audio").glob(f"{row['id']}.*")
    text = next(
        line.split(",", 4)[4]
        for line in (small_demo / "version_1" / "utterances.csv").read_text().splitlines()
        if line.startswith(row["id"])
    )
    folder = root / "clips"
    folder.mkdir()
    (folder / f"clip{clip.suffix}").symlink_to(clip)
    (folder / "clip.txt").write_text(text)
    (prediction,) = run.predict(folder)
    columns = [f"probability_{name}" for name in run.task.labels]
    np.testing.assert_allclose(list(prediction.probabilities.values()), row[columns].astype(float), atol=1e-4)


def test_the_calibration_is_fitted_to_validation(root: Path, small_demo: Path) -> None:
    assert main(["train", f"dataset.root={small_demo}", "head=linear_svm", "head.C=[1.0]", *WORDS]) == 0
    run = the_run(root)
    with (run.folder / "history.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert run.metrics["val/loss"] < float(row["val/loss"])  # margins are no probabilities
    assert run.metrics["val/uar"] == float(row["val/uar"])


def test_what_training_alone_could_use_is_refused_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "head=knn", "encoder/audio=crnn", "context=bigru", "model.mixup=0.2", "trainer.ema=0.9"]
    assert main([*words, "model.modality_dropout=0.1", "init_from=abc", *WORDS]) == 2
    error = capsys.readouterr().err
    for key in ("encoder.audio.training", "context", "model.mixup", "trainer.ema", "model.modality_dropout"):
        assert f"{key}: expected" in error
    assert "init_from: expected null for head=NearestNeighbours, which is not trained by gradients, got abc" in error


def test_values_are_predicted_by_neighbours_and_not_by_logistic_regression(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = ("train", "train", "val", "test")
    rows = [f"{n},{'up' if n % 3 else 'down'} word{n},{n % 3},{splits[n % 4]}" for n in range(24)]
    (tmp_path / "values.csv").write_text("\n".join(["id,text,target,split", *rows]))
    words = ["train", "dataset=custom", f"dataset.table={tmp_path / 'values.csv'}", "encoder/audio=none", *WORDS]
    assert main([*words, "head=logistic_regression"]) == 2
    assert "expected linear_svm or knn for a task of regression" in capsys.readouterr().err
    assert main([*words, "head=linear_svm"]) == 0
    run = the_run(root)
    assert "calibration" not in run.record.weights
    assert run.metrics["test/ccc"] > 0.3
    assert main([*words, "head=knn", "head.k=[3]"]) == 0


def test_keys_of_gradients_leave_the_id_of_a_classical_run_alone() -> None:
    plain = identity(["head=linear_svm"])
    assert plain != identity([])
    same = ["fusion=gated", "loss=focal", "optimizer.lr=0.1", "trainer.max_epochs=3", "model.dropout=0.1"]
    assert identity(["head=linear_svm", *same, "batch_size=8", "calibrate=true"]) == plain
    for other in ("head.C=[1.0]", "model.normalisation=none"):
        assert identity(["head=linear_svm", other]).run_id != plain.run_id
