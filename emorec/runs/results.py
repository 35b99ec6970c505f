"""What a run leaves: metrics, predictions, and the line that sums it up."""

import csv
import io
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.datasets.utterance import UNLABELLED, Task, Utterance
from emorec.errors import UserError, first_line
from emorec.runs.checkpoint_store import RunRecord
from emorec.storage.atomic import write_bytes, write_json
from emorec.storage.digests import digest_of
from emorec.storage.documents import read_object
from emorec.storage.regular_files import read_regular

if TYPE_CHECKING:
    from emorec.models.emotion_model import Predictions
    from emorec.models.other_tasks import TaskResult

log = logging.getLogger(__name__)

SHOWN = {"classification": ("weighted_f1", "uar", "accuracy"), "regression": ("ccc", "mae", "pearson")}  # of test
LINE_METRICS = {kind: (f"val/{names[0]}", *(f"test/{name}" for name in names)) for kind, names in SHOWN.items()}

PREDICTIONS = "predictions.parquet"
ORIGINS = ("speaker", "dialogue")  # of an utterance: columns of the predictions
MISSING = "missing.json"  # of an evaluation: a row for each subset of the modalities
SHARED_NOTE = "speakers in train and test"  # of results of a protocol that does not separate them, by intent
SPEAKER_NOTE = "speaker-normalised"  # of results that rest on the speakers' own unlabelled utterances


def write_results(
    folder: Path,
    predictions: "Mapping[str, Predictions]",
    task: Task,
    others: Sequence[Task] = (),
    utterances: Iterable[Utterance] = (),
) -> dict[str, Any]:
    """Writes `metrics.json` and `predictions.parquet` of {split: predictions} into a folder and returns the metrics:
    `<split>/<metric>`, and for classes `<split>/per_class` and `<split>/confusion` (rows: targets).

    Where a logit is not finite, the split's metrics are `None`, and it has no scores by class: a NaN is no class.
    A self-supervised task has no predictions. `utterances` are those of the corpus, whose speakers and dialogues stand
    beside the predictions.
    """
    metrics: dict[str, Any] = {"labels": list(task.labels)}
    for split, predicted in predictions.items():
        scores = {name: value if math.isfinite(value) else None for name, value in predicted.scores.items()}
        metrics |= {f"{split}/{name}": value for name, value in scores.items()}
        if broken := predicted.not_finite():
            count = f"{len(broken)} of {len(predicted.id)} utterances of {split} ({broken[0]}, …)"
            log.warning("the predictions of %s are not finite: its metrics are null", count)
        elif task.kind == "classification":
            from emorec.metrics.classification import confusion_matrix, per_class_scores

            confusion = confusion_matrix(predicted.target, predicted.logits.argmax(1), len(task.labels))
            metrics[f"{split}/per_class"] = per_class_scores(confusion, task.labels)
            metrics[f"{split}/confusion"] = confusion.tolist()
    if task != UNLABELLED:
        write_predictions(folder / PREDICTIONS, predictions, task, others, utterances)
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_predictions(
    path: Path,
    predictions: "Mapping[str, Predictions]",
    task: Task,
    other_tasks: Sequence[Task] = (),
    utterances: Iterable[Utterance] = (),
) -> None:
    """Writes a Parquet table: id, split, speaker, dialogue, target, predicted (labels), and `probability_<label>` for
    each class; for regression target and predicted are values. No class is predicted where a logit is not finite, and
    speaker and dialogue are null where the corpus names none."""
    import pyarrow
    from pyarrow import parquet

    others = {other.name: other for other in other_tasks}
    known = {item.id: item for item in utterances}
    tables = []
    for split, predicted in predictions.items():
        columns: dict[str, Any] = {"id": list(predicted.id), "split": [split] * len(predicted.id)}
        for name in ORIGINS:
            origins = [getattr(known.get(item), name, None) for item in predicted.id]
            columns[name] = pyarrow.array(origins, pyarrow.string())  # also where none is known
        if task.kind == "regression":
            columns |= {"target": predicted.target.numpy(), "predicted": predicted.logits[:, 0].numpy()}
        else:
            columns["target"] = [task.labels[index] if index >= 0 else None for index in predicted.target.tolist()]
            rows = zip(predicted.logits.argmax(1).tolist(), predicted.logits.isfinite().all(1).tolist(), strict=True)
            columns["predicted"] = [task.labels[index] if is_finite else None for index, is_finite in rows]
            probabilities = predicted.logits.softmax(1).numpy()
            columns |= {f"probability_{label}": probabilities[:, index] for index, label in enumerate(task.labels)}
        for other, result in predicted.others.items():
            columns |= _columns_of(others[other], result)
        tables.append(pyarrow.table(columns))
    stream = io.BytesIO()
    parquet.write_table(pyarrow.concat_tables(tables), stream)
    write_bytes(path, stream.getvalue())


def _columns_of(task: Task, result: "TaskResult") -> dict[str, Any]:
    """The columns `<task>_target` and `<task>_predicted` of another task."""
    import pyarrow

    if task.kind == "regression":
        return {f"{task.name}_target": result.target.numpy(), f"{task.name}_predicted": result.logits[:, 0].numpy()}
    targets = [task.labels[index] if index >= 0 else None for index in result.target.tolist()]
    return {
        f"{task.name}_target": pyarrow.array(targets, pyarrow.string()),  # also where none is known
        f"{task.name}_predicted": [task.labels[index] for index in result.logits.argmax(1).tolist()],
    }


def read_metrics(folder: Path) -> dict[str, Any]:
    """`metrics.json` of a run's directory; empty where there is none.

    Raises:
        UserError: it is not readable.
    """
    return read_object(folder / "metrics.json", "the metrics of a run") or {}


def read_missing(folder: Path, record: RunRecord) -> dict[str, dict[str, float]]:
    """{modalities, such as "text+audio": metrics} of a run's test split without the other modalities.

    Empty where this was not evaluated with its weights.

    Raises:
        UserError: a file is not readable.
    """
    for path in sorted(folder.glob(f"evaluations/*/{MISSING}")):
        found = read_object(path, "an evaluation with missing modalities") or {}
        expected = {"weights": digest_of(record.weights), "corpus": record.data.get("corpus"), "split": "test"}
        if all(found.get(key) == value for key, value in expected.items()):
            try:
                return {"+".join(row["modalities"]): dict(row["metrics"]) for row in found["rows"]}
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"expected rows of modalities and metrics in {path}, got {error!r}") from error
    return {}


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's `history.csv`, one for each epoch; empty where there is none.

    Raises:
        UserError: it is not readable.
    """
    path = folder / "history.csv"
    try:
        rows = csv.DictReader(io.StringIO(read_regular(path, follow=False).decode(), newline=""))
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"expected the epochs of a run in {path}, got {first_line(error)}") from error


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers; a file of an older version may hold NaN, where today's holds null."""
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float) and key.count("/") == 1}
    return {key: float(value) for key, value in numbers.items() if abs(value) <= sys.float_info.max}


def metric_text(name: str, metrics: Mapping[str, float]) -> str:
    """`test/uar=0.7123`, or `test/uar=–` where it is no finite number."""
    return f"{name}={metrics[name]:.4f}" if name in metrics else f"{name}=–"


def line_metrics(folder: Path) -> dict[str, float]:
    """The metrics of a run that a line or a table of runs shows."""
    metrics = scalar_metrics(read_metrics(folder))
    return {name: metrics[name] for names in LINE_METRICS.values() for name in names if name in metrics}


def result_line(record: RunRecord, folder: Path) -> str:
    """`run <run_id>  val/weighted_f1=…  test/weighted_f1=…  test/uar=…  test/accuracy=…  <path>`; for regression
    `val/ccc`, `test/ccc`, `test/mae` and `test/pearson`. Another metric that chose the epoch stands before them, and
    `speaker-normalised` after them where that is so."""
    metrics = read_metrics(folder)
    names: tuple[str, ...] = LINE_METRICS.get(record.task.get("kind", "classification"), ())
    if (monitor := f"val/{record.task.get('monitor')}") not in names:
        names = (monitor, *names)
    values = [metric_text(name, scalar_metrics(metrics)) for name in names if name in metrics]
    return "  ".join([f"run {record.run_id}", *values, *remarks(record), str(folder)])


def remarks(record: RunRecord) -> list[str]:
    """What a reader of a run's results must know."""
    notes = {
        SPEAKER_NOTE: record.data.get("normalisation") == "speaker",
        SHARED_NOTE: record.data.get("shares_speakers"),
    }
    return [note for note, holds in notes.items() if holds]
