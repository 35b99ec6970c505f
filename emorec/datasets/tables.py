"""Annotation tables, read with every fault named by file and line."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from emorec.datasets.manifest import Problem

DELIMITERS = ",;\t"


def read_any_table(path: Path, known: Iterable[str], problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table of text or of a Parquet file (.parquet), as `read_table` gives them.

    A table of text is parted by commas, semicolons or tabs, whichever shows most of the known columns in its first
    line; their capitals do not matter. A Parquet file's first row is line 1, and what is not a text there is written as
    one.
    """
    names = set(known)
    parquet = path.suffix.lower() == ".parquet"
    rows = _parquet_rows(path, problems) if parquet else read_table(path, (), problems, delimiter=_mark(path, names))
    found = rows[0][1].keys() if rows else ()
    other = {name: name.lower() for name in found if name.lower() in names and name.lower() not in found}
    return [(line, {other.get(name, name): text for name, text in cells.items()}) for line, cells in rows]


def _parquet_rows(path: Path, problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        problems.append(Problem("encoding", str(path), f"expected Parquet, got {error}"))
        return []
    return [
        (line, {name.strip(): _text(value) for name, value in row.items()})
        for line, row in enumerate(table.to_pylist(), 1)
    ]


def _text(value: object) -> str:
    """A cell as text; empty for nothing, also for "not a number", which is pandas' word for it."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _mark(path: Path, known: set[str]) -> str:
    """What parts the cells of a table that has some of these columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
    except (OSError, UnicodeDecodeError):  # `read_table` tells of it
        return ","

    def columns(mark: str) -> int:
        return len(known & {name.strip().lower() for name in next(csv.reader([header], delimiter=mark), ())})

    return max(DELIMITERS, key=columns)


def read_table(
    path: Path, columns: Iterable[str], problems: list[Problem], *, delimiter: str = ","
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}).

    What is wrong goes to `problems`: a missing file, bytes that are not UTF-8, a column that is missing or there twice,
    a row with too few or too many cells. Rows without any text are left out.
    """
    if not path.is_file():
        problems.append(Problem("missing", str(path), "expected this file, found none"))
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(Problem("encoding", str(path), f"expected UTF-8, got {error}"))
        return []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        absent = [column for column in columns if column not in header]
        if absent:
            problems.append(Problem("column", str(path), f"expected columns {absent}, found {header}"))
            return []
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            problems.append(Problem("column", str(path), f"expected each column once, found {twice} again"))
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(header):
                detail = f"expected {len(header)} cells, found {len(cells)} (a text with a comma stands in quotes)"
                problems.append(Problem("row", f"{path.name}:{reader.line_num}", detail))
            else:
                rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        problems.append(Problem("row", f"{path.name}:{reader.line_num}", f"expected CSV, got {error}"))
    return rows
