"""Annotation tables, read with every fault named by file and line."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from emorec.datasets.manifest import Problem

DELIMITERS = ",;\t"


def read_any_table(path: Path, columns: Iterable[str], problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table of text or of a Parquet file (.parquet), as `read_table` gives them.

    A table of text is parted by commas, semicolons or tabs, whichever shows the columns in its first line. A Parquet
    file's first row is line 1, and what is not a text there is written as one.
    """
    if path.suffix.lower() != ".parquet":
        return read_table(path, columns, problems, delimiter=_delimiter(path, set(columns)))
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        problems.append(Problem("encoding", str(path), f"expected Parquet, got {error}"))
        return []
    absent = [column for column in columns if column not in table.column_names]
    if absent:
        problems.append(Problem("column", str(path), f"expected columns {absent}, found {table.column_names}"))
        return []
    return [
        (line, {name: "" if value is None else str(value) for name, value in row.items()})
        for line, row in enumerate(table.to_pylist(), 1)
    ]


def _delimiter(path: Path, columns: set[str]) -> str:
    """What parts the cells of a table that shall have these columns; a comma where nothing does."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
    except (OSError, UnicodeDecodeError):  # `read_table` tells of it
        return ","
    fitting = [mark for mark in DELIMITERS if columns <= set(next(csv.reader([header], delimiter=mark), ()))]
    return fitting[0] if fitting else ","


def read_table(
    path: Path, columns: Iterable[str], problems: list[Problem], *, delimiter: str = ","
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}).

    What is wrong goes to `problems`: a missing file, bytes that are not UTF-8, a missing column, a row too short.
    """
    if not path.is_file():
        problems.append(Problem("missing", str(path), "expected this file, found none"))
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(Problem("encoding", str(path), f"expected UTF-8, got {error}"))
        return []
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    absent = [column for column in columns if column not in (reader.fieldnames or ())]
    if absent:
        problems.append(
            Problem("column", str(path), f"expected columns {absent}, found {list(reader.fieldnames or ())}")
        )
        return []
    rows = []
    try:
        for row in reader:
            if any(row[column] is None for column in columns):
                detail = f"expected {len(reader.fieldnames or ())} cells, found fewer"
                problems.append(Problem("row", f"{path.name}:{reader.line_num}", detail))
            else:
                rows.append((reader.line_num, row))
    except csv.Error as error:
        problems.append(Problem("row", f"{path.name}:{reader.line_num}", f"expected CSV, got {error}"))
    return rows
