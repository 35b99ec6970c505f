"""Annotation tables. Problems name the file and the line."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.datasets.manifest import Problem

DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    where: str  # file and line, for problems
    cells: Mapping[str, str]  # {column: text}
    problems: list[Problem]  # collects the problems of all rows

    def reject(self, kind: str, column: str, expected: str) -> None:
        """Adds the problem that a cell is not as expected, such as "to be a number"."""
        cell = self.cells.get(column, "")
        self.problems.append(Problem(kind, self.where, f"expected {column} {expected}, got {cell!r}"))

    def text(self, column: str) -> str | None:
        """The stripped cell; `None` if it is empty or absent."""
        return (self.cells.get(column) or "").strip() or None

    def value(self, column: str) -> float:
        """The cell as a number; NaN if it is not a number."""
        try:
            return float(self.text(column) or "")
        except ValueError:
            return math.nan

    def number(self, column: str) -> float | None:
        """The cell as a finite number; `None` if it is empty. Anything else is a problem."""
        value = self.value(column)
        if math.isfinite(value):
            return value
        if self.text(column) is not None:
            self.reject("number", column, "to be a number")
        return None

    def whole_number(self, column: str) -> int | None:
        """The cell as a whole number from 0. Anything else, also an empty cell, is a problem."""
        text = self.text(column) or ""
        if text.isdecimal():
            return int(text)
        self.reject("number", column, "to be a number")
        return None

    def index(self, column: str, names: Sequence[str], *, kind: str = "label", lower: bool = False) -> int | None:
        """The index of the cell among `names`. Anything else, also an empty cell, is a problem."""
        text = self.text(column) or ""
        text = text.lower() if lower else text
        if text in names:
            return names.index(text)
        self.reject(kind, column, f"in {tuple(names)}")
        return None


def read_any_table(path: Path, known: Iterable[str], problems: list[Problem]) -> list[Row]:
    """The rows of a delimited text file or a Parquet file (.parquet).

    The delimiter of a text file is the comma, semicolon or tab that yields most of the known columns. The case of known
    columns does not matter. The first row of a Parquet file is line 1, and its cells are converted to text.
    """
    names = set(known)
    if path.suffix.lower() == ".parquet":
        rows = _parquet_rows(path, problems)
    else:
        rows = read_table(path, (), problems, delimiter=_delimiter(path, names))
    columns = rows[0][1].keys() if rows else ()
    renamed = {name: name.lower() for name in columns if name.lower() in names and name.lower() not in columns}
    return [
        Row(f"{path.name}:{line}", {renamed.get(name, name): text for name, text in cells.items()}, problems)
        for line, cells in rows
    ]


def _parquet_rows(path: Path, problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        problems.append(Problem("encoding", str(path), f"expected Parquet, got {error}"))
        return []
    return [(line, {name.strip(): _text(value) for name, value in row.items()}) for line, row in enumerate(rows, 1)]


def _text(value: object) -> str:
    """A cell as text; empty for null and for NaN, which pandas writes for a missing value."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _delimiter(path: Path, known: set[str]) -> str:
    """The delimiter that yields most of the known columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
    except (OSError, UnicodeDecodeError):  # `read_table` reports it
        return ","

    def columns(delimiter: str) -> int:
        return len(known & {name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), ())})

    return max(DELIMITERS, key=columns)


def read_rows(path: Path, columns: Iterable[str], problems: list[Problem]) -> list[Row]:
    """The rows of `read_table` with methods to check their cells."""
    return [Row(f"{path.name}:{line}", cells, problems) for line, cells in read_table(path, columns, problems)]


def read_table(
    path: Path, columns: Iterable[str], problems: list[Problem], *, delimiter: str = ","
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}), without empty rows.

    A missing file, bytes that are not UTF-8, a missing or repeated column and a row with too few or too many cells are
    added to `problems`.
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
        if repeated := sorted({name for name in header if name and header.count(name) > 1}):
            problems.append(Problem("column", str(path), f"expected each column once, found {repeated} again"))
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(header):
                detail = f"expected {len(header)} cells, found {len(cells)} (put a text with a comma in quotes)"
                problems.append(Problem("row", f"{path.name}:{reader.line_num}", detail))
            else:
                rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        problems.append(Problem("row", f"{path.name}:{reader.line_num}", f"expected CSV, got {error}"))
    return rows
