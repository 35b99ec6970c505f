"""Writes predictions as they come: CSV, JSON, JSON Lines or Parquet."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.escaping import for_csv
from emorec.inference.prediction import Prediction
from emorec.storage.atomic import replacing

Format = Literal["csv", "json", "jsonl", "parquet"]
STDOUT = "-"
GROUP = 512  # rows of a group of a Parquet file


def format_of(output: str, chosen: Format | None) -> Format:
    """The format of an output: as chosen, else by its suffix; CSV on standard output.

    Raises:
        UserError: the suffix says nothing, or Parquet is to go to standard output.
    """
    known = get_args(Format)
    if output == STDOUT:
        if chosen == "parquet":
            raise UserError("output: expected a file for format=parquet, got -")
        return chosen or "csv"
    suffix = Path(output).suffix.lower().removeprefix(".")
    found = chosen or next((name for name in known if name == suffix), None)
    if found is None:
        suffixes = ", ".join(f".{name}" for name in known)
        raise UserError(f"output: expected a file that ends in {suffixes}, or format, got {output}")
    return found


def write_predictions(predictions: Iterable[Prediction], task: Task, output: str, form: Format) -> None:
    """Writes a row for each prediction; a file appears under its name once it is complete.

    Columns: `id`, `start` and `end` (seconds, of a segment), `predicted`, `confidence`, `probability_<class>` for each
    class (none of the last two for regression), `modalities` (joined by "+"), `problems` and `text`. JSON has an object
    for each with the fields of `Prediction`: in a list, or in JSON Lines on a line each. In CSV a text that a
    spreadsheet would compute is quoted by `'`.

    Args:
        output: the file, or "-" for standard output.
    """
    if output == STDOUT:
        _write_text(predictions, task, sys.stdout, form)
        return
    with replacing(Path(output).expanduser()) as path:
        if form == "parquet":
            _write_parquet(predictions, task, path)
        else:
            with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
                _write_text(predictions, task, stream, form)


def _columns(task: Task) -> list[str]:
    probabilities = (
        [] if task.kind == "regression" else ["confidence", *(f"probability_{name}" for name in task.labels)]
    )
    return ["id", "start", "end", "predicted", *probabilities, "modalities", "problems", "text"]


def _row(prediction: Prediction, task: Task) -> list[Any]:
    own = [prediction.probabilities.get(name) for name in task.labels]
    probabilities = [] if task.kind == "regression" else [prediction.confidence, *own]
    problems = "; ".join(f"{modality}: {reason}" for modality, reason in prediction.problems.items())
    segment = [prediction.start, prediction.end]
    what = [prediction.predicted, *probabilities, "+".join(prediction.modalities), problems, prediction.text]
    return [prediction.id, *segment, *what]


def _write_text(predictions: Iterable[Prediction], task: Task, stream: TextIO, form: Format) -> None:
    if form in ("json", "jsonl"):
        _write_json(predictions, stream, as_list=form == "json")
        return
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_columns(task))
    for prediction in predictions:
        writer.writerow(map(for_csv, _row(prediction, task)))
        stream.flush()


def _write_json(predictions: Iterable[Prediction], stream: TextIO, *, as_list: bool) -> None:
    count = 0
    for count, prediction in enumerate(predictions, start=1):
        values = {**asdict(prediction), "confidence": prediction.confidence}
        before, after = (("[\n" if count == 1 else ",\n"), "") if as_list else ("", "\n")
        stream.write(before + json.dumps(values, ensure_ascii=False) + after)
        stream.flush()
    if as_list:
        stream.write("\n]\n" if count else "[]\n")


def _write_parquet(predictions: Iterable[Prediction], task: Task, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = {"id", "modalities", "problems", "text"} | (set() if task.kind == "regression" else {"predicted"})
    names = _columns(task)
    schema = pyarrow.schema([(name, pyarrow.string() if name in texts else pyarrow.float32()) for name in names])
    rest = iter(predictions)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := [_row(prediction, task) for prediction in islice(rest, GROUP)]:
            columns: Sequence[Any] = list(zip(*group, strict=True))
            writer.write_table(pyarrow.table(dict(zip(names, map(list, columns), strict=True)), schema=schema))
