"""Several runs as one: the mean of their probabilities on their common utterances."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn.metrics import recall_score

from emorec.cli import main
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.runs.results import read_metrics
from emorec.storage.documents import read_object

WORDS = ["encoder/video=none", "progress=false"]


@pytest.fixture
def members(root: Path, small_demo: Path) -> list[str]:
    """Ids of two runs on the demo corpus."""
    for head in ("logistic_regression", "knn"):
        assert main(["train", f"dataset.root={small_demo}", f"head={head}", *WORDS]) == 0
    return [record.run_id for record in CheckpointStore(root / "checkpoints").records()]


def table(folder: Path) -> pandas.DataFrame:
    found = pandas.read_parquet(folder / "predictions.parquet")
    return found[found["split"] == "test"].set_index("id").sort_index()


def test_the_mean_of_the_probabilities_is_scored_and_kept(
    members: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = root / "checkpoints"
    capsys.readouterr()
    assert main(["evaluate", f"runs=[{','.join(members)}]", "progress=false"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (folder,) = (store / "ensembles").iterdir()
    assert [line.split("  ")[0] for line in lines] == [*(f"run {name}" for name in members), f"ensemble {folder.name}"]

    columns = [name for name in table(folder).columns if name.startswith("probability_")]
    own = [table(store / name) for name in members]
    mean = np.mean([item[columns].to_numpy() for item in own], axis=0)
    joined = table(folder)
    np.testing.assert_allclose(joined[columns].to_numpy(), mean, atol=1e-6)
    assert list(joined["speaker"]) == list(own[0]["speaker"])
    expected = recall_score(joined["target"], joined["predicted"], average="macro")
    assert read_metrics(folder)["test/uar"] == pytest.approx(expected)
    assert f"test/uar={expected:.4f}" in lines[-1]
    assert set((read_object(folder / "ensemble.json", "an ensemble") or {})["runs"]) == set(members)
    assert [record.run_id for record in CheckpointStore(store).records()] == members  # its folder is no run

    assert main(["evaluate", f"runs=[{','.join(reversed(members))}]", "split=train", "progress=false"]) == 0
    assert "train/uar=" in capsys.readouterr().out


def test_runs_that_have_no_common_test_are_refused_with_all_reasons(
    members: list[str], root: Path, tmp_path: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n},{'good' if n % 2 else 'bad'} day,{'happy' if n % 2 else 'sad'}" for n in range(20)]
    (tmp_path / "own.csv").write_text("\n".join(["id,text,label", *rows]))
    words = ["train", "dataset=custom", f"dataset.table={tmp_path / 'own.csv'}", "head=knn", "encoder/audio=none"]
    assert main([*words, *WORDS]) == 0
    (other,) = {record.run_id for record in CheckpointStore(root / "checkpoints").records()} - set(members)
    assert main(["evaluate", f"runs=[{members[0]},{other},{members[0]}]"]) == 2
    error = capsys.readouterr().err
    for text in ("expected each run once", "with labels ['angry', 'calm', 'happy', 'sad']", "on the corpus of"):
        assert text in error
    assert main([*words, *WORDS, "dataset.fold=1"]) == 0
    folds = {record.run_id for record in CheckpointStore(root / "checkpoints").records()} - set(members)
    assert main(["evaluate", f"runs=[{','.join(folds)}]"]) == 2
    assert "expected the runs of an ensemble to predict the same utterances" in capsys.readouterr().err
    assert main(["evaluate", f"runs=[{members[0]}]", "run=abc", "missing=grid"]) == 2
    assert "runs: expected none beside run=abc" in capsys.readouterr().err


def test_test_is_not_read_for_runs_that_left_it_alone(
    root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"dataset.root={small_demo}", "head=knn", "test=false", *WORDS]) == 0
    (record,) = CheckpointStore(root / "checkpoints").records()
    assert main(["evaluate", f"runs=[{record.run_id}]"]) == 2
    assert f"expected predictions for test of run {record.run_id}, got ['val']" in capsys.readouterr().err
    assert main(["evaluate", f"runs=[{record.run_id}]", "split=val"]) == 0
