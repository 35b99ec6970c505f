"""What a run leaves: metrics, predictions, and the line that sums it up."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.datasets.utterance import Task
from emorec.runs.checkpoint_store import RunRecord
from emorec.storage.atomic import write_bytes, write_json

if TYPE_CHECKING:
    from emorec.models.emotion_model import Predictions

SHOWN = {"classification": ("weighted_f1", "uar", "accuracy"), "regression": ("ccc", "mae", "pearson")}  # of test
LINE_METRICS = {kind: (f"val/{names[0]}", *(f"test/{name}" for name in names)) for kind, names in SHOWN.items()}


def write_results(folder: Path, predictions: "Mapping[str, Predictions]", task: Task) -> dict[str, Any]:
    """Writes `metrics.json` and `predictions.parquet` of {split: predictions} into a folder and returns the metrics:
    `<split>/<metric>`, and for classes `<split>/per_class` and `<split>/confusion` (rows: targets)."""
    metrics: dict[str, Any] = {"labels": list(task.labels)}
    for split, predicted in predictions.items():
        metrics |= {f"{split}/{name}": value for name, value in predicted.scores.items()}
        if task.kind == "classification":
            from emorec.metrics.classification import confusion_matrix, per_class_scores

            confusion = confusion_matrix(predicted.target, predicted.logits.argmax(1), len(task.labels))
            metrics[f"{split}/per_class"] = per_class_scores(confusion, task.labels)
            metrics[f"{split}/confusion"] = confusion.tolist()
    write_predictions(folder / "predictions.parquet", predictions, task)
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_predictions(path: Path, predictions: "Mapping[str, Predictions]", task: Task) -> None:
    """Writes a Parquet table: id, split, target, predicted (labels), and `probability_<label>` for each class; for
    regression target and predicted are values."""
    import pyarrow
    from pyarrow import parquet

    tables = []
    for split, predicted in predictions.items():
        columns: dict[str, Any] = {"id": list(predicted.id), "split": [split] * len(predicted.id)}
        if task.kind == "regression":
            columns |= {"target": predicted.target.numpy(), "predicted": predicted.logits[:, 0].numpy()}
        else:
            columns["target"] = [task.labels[index] if index >= 0 else None for index in predicted.target.tolist()]
            columns["predicted"] = [task.labels[index] for index in predicted.logits.argmax(1).tolist()]
            probabilities = predicted.logits.softmax(1).numpy()
            columns |= {f"probability_{label}": probabilities[:, index] for index, label in enumerate(task.labels)}
        tables.append(pyarrow.table(columns))
    stream = io.BytesIO()
    parquet.write_table(pyarrow.concat_tables(tables), stream)
    write_bytes(path, stream.getvalue())


def read_metrics(folder: Path) -> dict[str, Any]:
    """`metrics.json` of a run's directory; empty where there is none."""
    try:
        return dict(json.loads((folder / "metrics.json").read_text()))
    except FileNotFoundError:
        return {}


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's `history.csv`, one for each epoch; empty where there is none."""
    try:
        with (folder / "history.csv").open(newline="") as stream:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]
    except FileNotFoundError:
        return []


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers."""
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    return {key: float(value) for key, value in numbers.items() if key.count("/") == 1}


def line_metrics(folder: Path) -> dict[str, float]:
    """The metrics of a run that a line or a table of runs shows."""
    metrics = read_metrics(folder)
    return {name: metrics[name] for names in LINE_METRICS.values() for name in names if name in metrics}


def result_line(record: RunRecord, folder: Path) -> str:
    """`run <run_id>  val/weighted_f1=…  test/weighted_f1=…  test/uar=…  test/accuracy=…  <path>`; for regression
    `val/ccc`, `test/ccc`, `test/mae` and `test/pearson`. Another metric that chose the epoch stands before them."""
    metrics = read_metrics(folder)
    names: tuple[str, ...] = LINE_METRICS[record.task.get("kind", "classification")]
    if (monitor := f"val/{record.task.get('monitor')}") not in names:
        names = (monitor, *names)
    values = [f"{name}={metrics[name]:.4f}" for name in names if name in metrics]
    return "  ".join([f"run {record.run_id}", *values, str(folder)])
