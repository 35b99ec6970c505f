"""The leakage gap: one config under a random protocol and under one that separates speakers."""

from pathlib import Path

import numpy as np
import pytest

from emorec.cli import main
from emorec.reporting.samples import Sample
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord
from emorec.runs.results import SHARED_NOTE, read_metrics
from emorec.runs.stored_predictions import StoredPredictions
from emorec.training.leakage_gap import Estimate, _error

WORDS = ["encoder/text=none", "encoder/video=none", "head=logistic_regression", "head.C=[0.01]", "progress=false"]


def gap(root: Path, *words: str) -> dict[str, RunRecord]:
    """{protocol and fold: record} of the runs of `emorec report gap`."""
    assert main(["report", "gap", *words, *WORDS]) == 0
    return {
        f"{record.data['protocol']} {record.fold}": record for record in CheckpointStore(root / "checkpoints").records()
    }


def test_both_protocols_are_trained_once_and_compared(
    root: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = gap(root, f"dataset.root={small_demo}")
    assert set(runs) == {"official None", "random 0"}
    text = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in text.splitlines()[:5]}
    own, random = (read_metrics(root / "checkpoints" / record.run_id) for record in runs.values())
    assert rows["official"][2:6] == ["separate", "–", "16", "8"]
    assert rows["random"][2:4] == ["in train and test", "0"]
    column = rows["protocol"].index("test/uar")
    assert rows["official"][column].startswith(f"{own['test/uar']:.3f}")
    assert rows["gap"][column].startswith(f"{random['test/uar'] - own['test/uar']:+.3f}")
    assert SHARED_NOTE in text

    assert main(["train", f"dataset.root={small_demo}", "dataset.protocol=random", "dataset.fold=0", *WORDS]) == 0
    assert SHARED_NOTE in capsys.readouterr().out  # the line of such a run says it
    assert gap(root, f"dataset.root={small_demo}").keys() == runs.keys()  # nothing was trained again


def test_all_folds_of_a_table_are_compared(
    root: Path, tmp_path: Path, small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (small_demo / "version_1" / "utterances.csv").read_text().splitlines()[1:]
    rows = ["id,audio,label,speaker"]
    for name, speaker, _, label, _ in (line.split(",", 4) for line in lines):
        rows.append(f"{name},{small_demo}/version_1/audio/{name}.flac,{label},{speaker}")
    (tmp_path / "own.csv").write_text("\n".join(rows))
    words = ["dataset=custom", f"dataset.table={tmp_path / 'own.csv'}", "dataset.folds=3", "dataset.fold=all"]
    runs = gap(root, *words, "dataset.protocol=group_k_fold")
    assert set(runs) == {f"{protocol} {fold}" for protocol in ("group_k_fold", "stratified") for fold in range(3)}
    assert "| group_k_fold | separate          | 0, 1, 2 | " in capsys.readouterr().out
    assert main(["report", "gap", *words, "dataset.protocol=stratified", *WORDS]) == 2
    assert "expected one that separates speakers, got stratified" in capsys.readouterr().err
    assert main(["report", "gap", "test=false", *WORDS]) == 2


def test_the_error_is_that_of_resampled_speakers() -> None:
    generator = np.random.default_rng(0)
    count, speakers = 4000, 40
    speaker = np.arange(count) % speakers
    right = generator.random(count) < np.linspace(0.3, 0.9, speakers)[speaker]  # speakers differ
    target = generator.integers(2, size=count)
    predicted = np.where(right, target, 1 - target)
    stored = StoredPredictions(
        id=np.array([f"u{number:04d}" for number in range(count)], dtype=object),
        speaker=np.array([f"s{number}" for number in speaker], dtype=object),
        dialogue=np.full(count, None, dtype=object),
        target=target,
        predicted=predicted,
        probabilities=np.eye(2, dtype=np.float32)[predicted],
    )
    error, freedom = _error(Sample.of(stored), "accuracy")
    accuracy = np.array([right[speaker == number].mean() for number in range(speakers)])
    assert error == pytest.approx(accuracy.std(ddof=1) / np.sqrt(speakers), rel=0.06)
    assert freedom == pytest.approx(speakers - 1)
    nobody = StoredPredictions(**{**vars(stored), "speaker": np.full(count, None, dtype=object)})
    assert _error(Sample.of(nobody), "accuracy")[0] < error / 2


def test_a_difference_has_the_error_of_both() -> None:
    difference = Estimate(0.9, 0.03, 20).minus(Estimate(0.5, 0.04, 10))
    assert (difference.value, difference.error, difference.degrees_of_freedom) == pytest.approx((0.4, 0.05, 10))
    assert difference.text(signed=True) == "+0.400 [+0.289, +0.511]"
    assert Estimate(0.9, 0.3, 1, 0.0, 1.0).text() == "0.900 [0.000, 1.000]"
    assert Estimate(0.9, 0.3, 1, 0, 1).minus(Estimate(0.1, 0.3, 1, 0, 1)).text(signed=True) == "+0.800 [-1.000, +1.000]"
    assert Estimate(0.5, float("nan"), float("nan")).text() == "0.500"
