"""What a run leaves is strict JSON, and numbers that are not finite are no result."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError
from emorec.models.emotion_model import Predictions
from emorec.runs.results import line_metrics, read_metrics, result_line, scalar_metrics, write_results
from emorec.storage.atomic import strict_json
from tests.runs.test_checkpoint_store import record

NAN = float("nan")
EMOTION = Task(name="emotion", labels=("angry", "calm"), monitor="uar")


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def predictions(*logits: tuple[float, float], score: float = 0.5) -> Predictions:
    names = tuple(f"u{number}" for number in range(len(logits)))
    scores = {"loss": score, "uar": score}
    return Predictions(names, torch.tensor(logits), torch.zeros(len(logits), dtype=torch.long), scores)


def test_numbers_that_are_not_finite_become_null() -> None:
    value = {"a": [NAN, (math.inf, 1.5)], "b": {"c": -math.inf}, "d": "NaN", "e": True}
    assert strictly(strict_json(value)) == {"a": [None, [None, 1.5]], "b": {"c": None}, "d": "NaN", "e": True}


def test_logits_that_are_nan_are_no_class_and_no_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = {"val": predictions((2.0, 1.0)), "test": predictions((1.0, 2.0), (NAN, NAN), score=NAN)}
    metrics = write_results(tmp_path, splits, EMOTION)
    assert strictly((tmp_path / "metrics.json").read_text()) == metrics
    assert (metrics["val/uar"], metrics["test/uar"], metrics["test/loss"]) == (0.5, None, None)
    assert "val/confusion" in metrics
    assert not {"test/confusion", "test/per_class"} & metrics.keys()
    assert "1 of 2 utterances of test (u1, …)" in caplog.text
    table = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row["predicted"] for row in table] == ["angry", "calm", None]
    line = result_line(record(task={"name": "emotion", "kind": "classification", "monitor": "uar"}), tmp_path)
    assert "val/uar=0.5000" in line
    assert "test/uar=–" in line
    assert line_metrics(tmp_path) == {}


def test_predictions_name_the_speaker_and_the_dialogue_of_an_utterance(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "talk", "text": "yes", "targets": {}}
    known = [Utterance(id="u0", speaker="ann", dialogue="d1", **options), Utterance(id="u1", **options)]
    write_results(tmp_path, {"test": predictions((2.0, 1.0), (1.0, 2.0))}, EMOTION, utterances=known)
    table = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [(row["speaker"], row["dialogue"]) for row in table] == [("ann", "d1"), (None, None)]


def test_a_file_of_an_older_version_that_holds_nan_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"val/uar": NaN, "test/uar": 0.5, "x": 1, "val/n": null, "a/b": 1e999}')
    assert scalar_metrics(read_metrics(tmp_path)) == {"test/uar": 0.5}


@pytest.mark.parametrize("text", ["{", "[1]", "1", "[" * 100_000])
def test_metrics_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    assert read_metrics(tmp_path) == {}
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"expected the metrics of a run in .*metrics\.json"):
        read_metrics(tmp_path)
