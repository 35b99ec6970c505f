"""Training on whole dialogues."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from emorec import load_run
from emorec.cli import main
from emorec.runs.checkpoint_store import RunRecord
from tests.conftest import emorec_process
from tests.discovery import names
from tests.training.test_distributed import RANKS, finish, runs
from tests.training.test_trained_lifecycle import history_of, metrics_of, only_record, stop_at

pytestmark = pytest.mark.slow

WORDS = ("alpha", "beta", "gamma")
DIALOGUES = {"train": 40, "val": 10, "test": 10}
PLAIN = ["model.dropout=0", "trainer.gradient_clip=null", "optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Dialogues in which a turn's label is the word of the turn before: no turn alone tells it.

    A first turn has no label.
    """
    generator = random.Random(0)
    path = tmp_path / "dialogues.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text", "label", "speaker", "dialogue", "turn", "split"])
        for split, count in DIALOGUES.items():
            for number in range(count):
                label = ""
                for turn in range(1 + number % 6):
                    word = generator.choice(WORDS)
                    name = f"{split}_{number}"
                    writer.writerow([f"{name}_{turn}", word, label, f"{name}_{turn % 2}", name, turn, split])
                    label = word
    return path


@pytest.fixture
def words(table: Path) -> list[str]:
    """The command line of a training."""
    line = ["train", "dataset=custom", f"dataset.table={table}", "encoder/audio=none", "encoder/video=none"]
    line += ["encoder.text.dim=64", "model.hidden=16", "batch_size=8", "progress=false"]
    return [*line, "trainer.max_epochs=20", "trainer.patience=null", "optimizer.lr=0.01"]


def predictions(root: Path, record: RunRecord) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(
        root / "checkpoints" / record.run_id / "predictions.parquet"
    ).to_pylist()
    return rows


@pytest.mark.parametrize("context", names("context"))
def test_a_context_learns_what_a_turn_alone_does_not_tell(
    context: str, words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"context={context}", "context.causal=true"]) == 0
    record = only_record(root)
    assert metrics_of(root, record)["test/accuracy"] > 0.75
    found = {row["id"] for row in predictions(root, record) if row["split"] == "test"}
    assert found == {f"test_{number}_{turn}" for number in range(10) for turn in range(1, 1 + number % 6)}
    assert f"context.{context}" not in record.weights
    assert "context" in record.weights
    loaded = load_run(record.run_id, checkpoints=root / "checkpoints").model
    assert loaded.context is not None


def test_a_run_without_a_context_cannot_know_it_and_is_another_run(words: list[str], root: Path) -> None:
    assert main(words) == 0
    alone = only_record(root)
    assert metrics_of(root, alone)["val/accuracy"] < 0.6
    assert main([*words, "context=bigru", "trainer.max_epochs=1"]) == 0
    assert len(runs(root)) == 2


def test_it_is_stopped_within_an_epoch_and_goes_on_exactly(
    words: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [
        *words,
        "context=dialogue_rnn",
        "trainer.max_epochs=3",
        "trainer.accumulate=2",
        "model.modality_dropout=0.2",
    ]
    assert main(line) == 0
    undisturbed = only_record(root)
    expected = history_of(root, undisturbed), metrics_of(root, undisturbed)
    stopped = tmp_path / "stopped"
    monkeypatch.setenv("EMOREC_ROOT", str(stopped))
    with monkeypatch.context() as patched:
        stop_at(21, patched)
        assert main(line) == 75
    assert main(line) == 0
    record = only_record(stopped)
    assert (record.run_id, record.attempts) == (undisturbed.run_id, 2)
    assert (history_of(stopped, record), metrics_of(stopped, record)) == expected
    assert record.weights == undisturbed.weights


def test_it_is_evaluated_on_dialogues_later(words: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "context=bigru", "trainer.max_epochs=2"]) == 0
    record = only_record(root)
    capsys.readouterr()
    assert main(["evaluate", f"run={record.run_id}", "split=test"]) == 0
    folder = next((root / "checkpoints" / record.run_id / "evaluations").iterdir())
    again = json.loads((folder / "metrics.json").read_text())
    assert again["test/loss"] == pytest.approx(metrics_of(root, record)["test/loss"], rel=1e-5)


def test_two_ranks_learn_what_one_does_from_batches_of_unequal_dialogues(
    words: list[str], root: Path, tmp_path: Path
) -> None:
    line = [*words, "context=bigru", "trainer.max_epochs=1", *PLAIN]
    assert main([*line, "batch_size=5", "trainer.accumulate=2"]) == 0  # two batches a step, as on two ranks
    (one,) = runs(root)
    both = tmp_path / "both"
    both.mkdir()
    code, _, err = finish(emorec_process(*line, "batch_size=10", *RANKS, root=both))
    assert code == 0, err
    (two,) = runs(both)
    expected = load_run(one["run_id"], checkpoints=root / "checkpoints").model.components()
    found = load_run(two["run_id"], checkpoints=both / "checkpoints").model.components()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.mixup=0.2"], "model.mixup: expected 0 with a context, got 0.2"),
        (["fusion=mean_logits"], "fusion: expected one with a vector of all modalities for a context"),
    ],
)
def test_what_does_not_work_on_dialogues_is_refused(
    settings: list[str], message: str, words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "context=bigru", *settings]) == 2
    assert message in capsys.readouterr().err


def test_splits_that_tear_dialogues_apart_are_refused(
    words: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "context=bigru", "dataset.protocol=stratified"]) == 2
    assert "expected splits of whole dialogues for a context" in capsys.readouterr().err


def test_utterances_without_dialogues_are_dialogues_of_one_turn(train_overrides: list[str], root: Path) -> None:
    assert main(["train", *train_overrides, "context=transformer", "context.heads=4", "progress=false"]) == 0
    assert only_record(root).status == "finished"


def test_votes_are_read_where_the_corpus_has_them(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fixture", "dataset=iemocap", f"to={tmp_path / 'iemocap'}"]) == 0
    line = ["train", "dataset=iemocap", f"dataset.root={tmp_path / 'iemocap'}", "encoder/audio=none"]
    line += ["encoder/video=none", "trainer.max_epochs=2", "model.hidden=8", "progress=false", "loss=cross_entropy"]
    assert main([*line, "context=bigru"]) == 0
    assert main([*line, "context=bigru", "loss.targets=votes"]) == 0
    first, second = (run["run_id"] for run in runs(root))
    assert first != second
    capsys.readouterr()
    assert main(["train", "loss=cross_entropy", "loss.targets=votes", "progress=false"]) == 2
    assert "loss.targets: expected labels, since dataset=demo has no votes" in capsys.readouterr().err
