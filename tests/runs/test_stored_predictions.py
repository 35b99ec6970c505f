"""The predictions that a run has stored are read back as it had them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError
from emorec.models.emotion_model import Predictions
from emorec.runs import stored_predictions
from emorec.runs.results import write_results
from emorec.runs.stored_predictions import read_predictions

LABELS = ("angry", "calm")
EMOTION = Task(name="emotion", labels=LABELS, monitor="uar")


def write(folder: Path, **columns: Any) -> None:
    parquet.write_table(pyarrow.table(columns), folder / "predictions.parquet")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    logits, target = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([0, -100])
    options: dict[str, Any] = {"dataset": "talk", "text": "yes", "targets": {}}
    utterances = [Utterance(id="a", speaker="ann", **options), Utterance(id="b", dialogue="d", **options)]
    predictions = {
        "val": Predictions(("a", "b"), logits, target, {}),
        "test": Predictions(("b",), logits[1:], target[:1], {}),
    }
    write_results(tmp_path, predictions, EMOTION, utterances=utterances)
    read = read_predictions(tmp_path, LABELS)
    assert list(read) == ["val", "test"]
    assert read["val"].id.tolist() == ["a", "b"]
    assert read["val"].speaker.tolist() == ["ann", None]
    assert read["val"].dialogue.tolist() == [None, "d"]
    assert (read["val"].target.tolist(), read["val"].predicted.tolist()) == ([0, -1], [0, 1])
    assert read["val"].probabilities == pytest.approx(logits.softmax(1).numpy())
    assert (read["test"].id.tolist(), read["test"].is_finite) == (["b"], True)


def test_values_are_read(tmp_path: Path) -> None:
    write(tmp_path, id=["a", "b"], split=["val", "val"], target=[0.5, float("nan")], predicted=[0.25, 0.5])
    read = read_predictions(tmp_path, ())["val"]
    assert read.target[0] == 0.5
    assert np.isnan(read.target[1])
    assert (read.predicted.tolist(), read.probabilities.shape, read.is_classification) == ([0.25, 0.5], (2, 0), False)


def test_a_table_of_an_older_version_has_no_speakers(tmp_path: Path) -> None:
    probabilities = {f"probability_{label}": [0.5] for label in LABELS}
    write(tmp_path, id=["a"], split=["val"], target=["calm"], predicted=["angry"], **probabilities)
    assert read_predictions(tmp_path, LABELS)["val"].speaker.tolist() == [None]


def test_the_digest_of_the_utterances_does_not_depend_on_their_order(tmp_path: Path) -> None:
    def digest(*names: str) -> str:
        count = len(names)
        write(tmp_path, id=list(names), split=["val"] * count, target=[0.5] * count, predicted=[0.5] * count)
        return read_predictions(tmp_path, ())["val"].digest()

    assert digest("a", "b") == digest("b", "a")
    assert len({digest("a", "b"), digest("a"), digest("ab")}) == 3


def test_a_run_without_predictions_has_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path, LABELS) == {}


def test_a_table_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.parquet"
    for content in (b"", b"PAR1 and nothing else PAR1"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"expected the predictions of a run in .*predictions\.parquet"):
            read_predictions(tmp_path, LABELS)
    write(tmp_path, id=["a"], split=["val"])
    with pytest.raises(UserError, match="probability_angry"):
        read_predictions(tmp_path, LABELS)
    probabilities = {f"probability_{label}": [0.5] for label in LABELS}
    write(tmp_path, id=["a"], split=["val"], target=["sad"], predicted=["angry"], **probabilities)
    with pytest.raises(UserError, match="class 'sad', which is not among"):
        read_predictions(tmp_path, LABELS)
    for wrong in ({"id": [1]}, {"id": [None]}, {"speaker": [2]}, {"probability_calm": ["x"]}):
        write(
            tmp_path,
            **{"id": ["a"], "split": ["val"], "target": ["calm"], "predicted": ["angry"], **probabilities, **wrong},
        )
        with pytest.raises(UserError, match="expected the predictions of a run"):
            read_predictions(tmp_path, LABELS)
    monkeypatch.setattr(stored_predictions, "MOST_BYTES", 1)
    with pytest.raises(UserError, match="more than 1 bytes"):
        read_predictions(tmp_path, LABELS)
