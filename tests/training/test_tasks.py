"""Several tasks that are learned together."""

from pathlib import Path

import pytest
from pyarrow import parquet
from sklearn.metrics import accuracy_score, mean_absolute_error

from emorec import load_run
from emorec.cli import main
from tests.conftest import emorec_process
from tests.training.test_distributed import RANKS, finish, runs
from tests.training.test_trained_lifecycle import history_of, metrics_of, only_record, stop_at

pytestmark = pytest.mark.slow


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command line of a training on MELD, of which some rows lack a sentiment."""
    assert main(["data", "fixture", "dataset=meld", f"to={tmp_path / 'meld'}"]) == 0
    line = ["train", "dataset=meld", f"dataset.root={tmp_path / 'meld'}", "encoder/audio=none", "encoder/video=none"]
    line += ["encoder.text.dim=64", "model.hidden=16", "batch_size=8", "progress=false", "model.dropout=0"]
    return [*line, "trainer.max_epochs=15", "trainer.patience=null", "optimizer.lr=0.02"]


TASKS = ["tasks=[emotion,sentiment]", "task_weights.sentiment=0.5"]


def test_each_task_has_a_head_a_loss_metrics_and_predictions(
    words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *TASKS]) == 0
    record, metrics = only_record(root), metrics_of(root, only_record(root))
    assert [task["name"] for task in record.other_tasks] == ["sentiment"]
    assert {"train/loss/sentiment", "val/sentiment_uar", "val/uar"} <= set(history_of(root, record)[0])
    rows = parquet.read_table(root / "checkpoints" / record.run_id / "predictions.parquet").to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    known = [row for row in test if row["sentiment_target"] is not None]
    expected = accuracy_score(*([row[f"sentiment_{name}"] for row in known] for name in ("target", "predicted")))
    assert metrics["test/sentiment_accuracy"] == pytest.approx(expected)
    assert metrics["val/sentiment_accuracy"] > 0.6  # a sentence has one sentiment
    assert {"emotion", "sentiment"} == set(
        load_run(record.run_id, checkpoints=root / "checkpoints").model.others.tasks
    ) | {"emotion"}
    capsys.readouterr()
    assert main(["evaluate", f"run={record.run_id}", "split=val"]) == 0


def test_a_run_of_one_task_is_another_run(words: list[str], root: Path) -> None:
    assert main([*words, "trainer.max_epochs=1"]) == 0
    assert main([*words, "trainer.max_epochs=1", "tasks=[emotion,sentiment]"]) == 0
    assert len(runs(root)) == 2


def test_it_is_stopped_within_an_epoch_and_goes_on_exactly(
    words: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words, *TASKS, "trainer.max_epochs=3"]
    assert main(line) == 0
    undisturbed = only_record(root)
    expected = history_of(root, undisturbed), metrics_of(root, undisturbed)
    stopped = tmp_path / "stopped"
    monkeypatch.setenv("EMOREC_ROOT", str(stopped))
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        assert main(line) == 75
    assert main(line) == 0
    record = only_record(stopped)
    assert (history_of(stopped, record), metrics_of(stopped, record)) == expected


def test_two_ranks_learn_both(words: list[str], root: Path) -> None:
    code, _, err = finish(emorec_process(*words, *TASKS, "trainer.max_epochs=2", *RANKS, root=root))
    assert code == 0, err
    assert "test/sentiment_uar" in metrics_of(root, only_record(root))


def test_values_are_learned_beside_classes_where_there_are_any(tmp_path: Path, root: Path) -> None:
    assert main(["data", "fixture", "dataset=iemocap", f"to={tmp_path / 'iemocap'}"]) == 0
    line = ["train", "dataset=iemocap", f"dataset.root={tmp_path / 'iemocap'}", "encoder/audio=none", "context=bigru"]
    line += ["encoder/video=none", "trainer.max_epochs=2", "model.hidden=8", "progress=false"]
    assert main([*line, "tasks=[emotion,valence]"]) == 0
    record = only_record(root)
    rows = parquet.read_table(root / "checkpoints" / record.run_id / "predictions.parquet").to_pylist()
    known = [row for row in rows if row["split"] == "val" and row["valence_target"] == row["valence_target"]]
    expected = mean_absolute_error(*([row[f"valence_{name}"] for row in known] for name in ("target", "predicted")))
    assert metrics_of(root, record)["val/valence_mae"] == pytest.approx(expected, rel=1e-4)
    assert "valence_uar" not in metrics_of(root, record)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tasks=[emotion,arousal]"], "tasks: expected tasks of dataset=meld, ['emotion', 'sentiment'], got arousal"),
        (["tasks=[sentiment]"], "tasks: expected dataset.task=emotion among them"),
        (["tasks=[emotion,emotion]"], "tasks: expected each once"),
        (["task_weights.sentiment=2"], "task_weights.sentiment: expected a name of tasks=[]"),
        (["tasks=[emotion,sentiment]", "model.mixup=0.2"], "model.mixup: expected 0 with several tasks"),
        (["tasks=[emotion,sentiment]", "fusion=mean_logits"], "fusion: expected one with a vector of all modalities"),
    ],
)
def test_what_does_not_go_together_is_refused(
    settings: list[str], message: str, words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*words, *settings]) == 2
    assert message in capsys.readouterr().err
